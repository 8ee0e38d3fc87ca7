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
                        CHECK(strspn(request.start.variables, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789=,\n") ==
                              strnlen(request.start.variables, sizeof(request.start.variables)));
                        CHECK(request.start.memory_max >= REQUEST_MEMORY_MIN &&
                              request.start.tasks_max >= 1);
                } else if (request.op == LAUNCHER_BUILD) {
                        CHECK(data[0] % 4 == 1);
                        CHECK(environment_name_is_valid(request.build.environment));
                        CHECK(!strpbrk(request.build.environment, "/."));
                        CHECK(!request.build.owner[0] || owner_name_is_valid(request.build.owner));
                        CHECK(python_series_is_valid(request.build.python));
                        CHECK(request.build.disk_max >= REQUEST_BUILD_DISK_MIN &&
                              request.build.files_max >= 1);
                } else {
                        CHECK(data[0] % 4 == 0);
                        if (request.op == LAUNCHER_BUILD_STOP || request.op == LAUNCHER_ENVIRONMENT_REMOVE) {
                                CHECK(environment_name_is_valid(request.environment.environment));
                                CHECK(!strpbrk(request.environment.environment, "/."));
                        }
                }
        }
        free(packet);
        return 0;
}
