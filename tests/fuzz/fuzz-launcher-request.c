/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>

#include "parse-util.h"
#include "request-check.h"

/* The first byte: how many file descriptors came with the packet, which is the rest, in a buffer of its
 * exact size. What is taken must be safe to use without another look. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const char *why = NULL;
        LauncherRequest request;

        if (size < 1)
                return 0;
        uint8_t *packet = memdup(data + 1, size - 1);
        CHECK(packet);
        int r = request_check(packet, size - 1, data[0] % 4, &why);
        CHECK(why);
        if (r == 0) {
                memcpy(&request, packet, sizeof(request));
                if (request.op == LAUNCHER_START) {
                        CHECK(data[0] % 4 == 2);
                        CHECK(strnlen(request.start.name, sizeof(request.start.name)) <
                              sizeof(request.start.name));
                        CHECK(!strpbrk(request.start.name, "\n\r\x7f"));
                        CHECK(utf8_is_valid(request.start.name, strlen(request.start.name)));
                        CHECK(owner_name_is_valid(request.start.key.owner));
                        CHECK(!strchr(request.start.key.policy, '/') && request.start.key.policy[0]);
                        CHECK(request.start.memory_max >= REQUEST_MEMORY_MIN &&
                              request.start.tasks_max >= 1);
                } else
                        CHECK(data[0] % 4 == 0);
        }
        free(packet);
        return 0;
}
