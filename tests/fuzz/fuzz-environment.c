/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "environment-order.h"
#include "environment-report.h"
#include "fd-util.h"
#include "json-util.h"
#include "parse-util.h"

/* An order of the master for an environment (JSON, a NUL, then the payloads one after the other), or, if
 * the first byte is 'r', a builder's report. */

enum { PIECE = 64 };

static void check_written(const EnvironmentOrder *order) {
        _cleanup_(close_fdp) int fd = environment_order_to_memfd(order);
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) char *text = NULL;
        const char *target;
        size_t size;

        if (fd == -EMSGSIZE || fd == -ENOMEM)
                return;
        CHECK(fd >= 0 && read_fd_full(fd, BUILD_ORDER_MAX, &text, &size) >= 0);
        CHECK(json_parse_strict_object(text, size, JSON_DEPTH_MAX, &json) >= 0);
        CHECK(json_get_string(json, "target", 256, &target) >= 0);
        target = startswith(target, ENVIRONMENT_FOLDER "/");
        CHECK(target && streq(target, order->name) && !strchr(target, '/'));
}

static void check_order(const char *data, size_t size) {
        const char *end = memchr(data, '\0', size);
        size_t json_size = end ? (size_t) (end - data) : size, rest = end ? size - json_size - 1 : 0;
        _cleanup_(environment_order_freep) EnvironmentOrder *order = NULL;
        _cleanup_(json_putp) json_object *json = NULL;
        struct iovec payloads[FRAME_PAYLOAD_COUNT_MAX];
        Frame frame = { .type = FRAME_ENVIRONMENT, .payloads = payloads };
        int r;

        for (; rest > 0 && frame.n_payloads < ELEMENTSOF(payloads); rest -= MIN(rest, (size_t) PIECE))
                payloads[frame.n_payloads++] = (struct iovec){
                        .iov_base = (char *) data + size - rest,
                        .iov_len = MIN(rest, (size_t) PIECE),
                };
        if (json_parse_strict(data, json_size, JSON_DEPTH_MAX, &json) < 0)
                return;
        r = environment_order_new(&frame, json, json_size % 2 == 0, &order);
        CHECK(r >= 0 || r == -EBADMSG || r == -ENOMEM);
        if (r < 0)
                return;
        CHECK(environment_name_is_valid(order->name) && python_series_is_valid(order->python));
        CHECK(!*order->owner || owner_name_is_valid(order->owner));
        CHECK(order->lock_size <= ENVIRONMENT_LOCK_MAX &&
              (!order->lock || strlen(order->lock) == order->lock_size));
        check_written(order);
}

static void check_report(const char *data, size_t size) {
        EnvironmentReport report;
        size_t libraries;
        int r;

        r = environment_report_parse(data, size, &report);
        CHECK(r >= 0 || r == -EBADMSG || r == -ENOMEM);
        if (r < 0)
                return;
        CHECK(json_text(report.libraries, &libraries) && libraries <= ENVIRONMENT_LIBRARIES_SIZE_MAX);
        CHECK(!report.lock ||
              (strlen(report.lock) == report.lock_size && report.lock_size <= ENVIRONMENT_LOCK_MAX));
        environment_report_done(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size > 0 && data[0] == 'r')
                check_report((const char *) data + 1, size - 1);
        else
                check_order((const char *) data, size);
        return 0;
}
