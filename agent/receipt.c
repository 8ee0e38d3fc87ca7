/* SPDX-License-Identifier: Apache-2.0 */
#include "receipt.h"

#include <stddef.h>

#include "json-util.h"
#include "macros.h"
#include "time-util.h"

typedef struct ReceiptFigure {
        const char *name;
        uint32_t bit; /* 0: always known */
        size_t offset;
        const char *why_v1, *why_v2; /* it is missing, on this layout of cgroups */
} ReceiptFigure;

#define RAN_NOT "the attempt never ran"
#define TOO_LATE "its scope was gone before it could be read"

static const ReceiptFigure figures[] = {
        { "start_us", 0, offsetof(LauncherReceipt, start_usec), NULL, NULL },
        { "run_us", 0, offsetof(LauncherReceipt, run_usec), NULL, NULL },
        { "cpu_us", RECEIPT_CPU, offsetof(LauncherReceipt, cpu_usec), TOO_LATE, TOO_LATE },
        { "memory_peak", RECEIPT_MEMORY_PEAK, offsetof(LauncherReceipt, memory_peak), TOO_LATE,
          "the kernel has no memory.peak (it came with Linux 5.19)" },
        { "read_chars", RECEIPT_READ_CHARS, offsetof(LauncherReceipt, read_chars),
          "the kernel does not count bytes per process", "the kernel does not count bytes per process" },
        { "write_chars", RECEIPT_WRITE_CHARS, offsetof(LauncherReceipt, write_chars),
          "the kernel does not count bytes per process", "the kernel does not count bytes per process" },
        { "read_bytes", RECEIPT_READ_BYTES, offsetof(LauncherReceipt, read_bytes),
          "block input and output is not counted on this node",
          "block input and output is not counted on this node" },
        { "write_bytes", RECEIPT_WRITE_BYTES, offsetof(LauncherReceipt, write_bytes),
          "block input and output is not counted on this node",
          "block input and output is not counted on this node" },
        { "pressure_us", RECEIPT_PRESSURE, offsetof(LauncherReceipt, pressure_usec),
          "cgroup version 1 has no pressure of its own for a task",
          "the kernel has no pressure accounting" },
};

static uint64_t receipt_figure(const LauncherReceipt *receipt, const ReceiptFigure *figure) {
        uint64_t value;

        memcpy(&value, (const uint8_t *) receipt + figure->offset, sizeof(value));
        return value;
}

static int add_time(json_object *object, const char *name, const LauncherReceipt *receipt, uint64_t usec) {
        return receipt && usec > 0 ? json_add_uint64(object, name, usec / USEC_PER_MSEC)
                                   : json_add_null(object, name);
}

int receipt_to_json(const LauncherReceipt *receipt, bool warm, bool cgroup_v2, json_object **ret) {
        _cleanup_(json_putp) json_object *object = NULL, *unknown = NULL;
        int r;

        r = json_new_object(&object);
        if (r >= 0)
                r = json_new_object(&unknown);
        for (size_t i = 0; i < ELEMENTSOF(figures) && r >= 0; i++) {
                const ReceiptFigure *figure = figures + i;

                if (receipt && (figure->bit == 0 || receipt->known & figure->bit)) {
                        r = json_add_uint64(object, figure->name, receipt_figure(receipt, figure));
                        continue;
                }
                r = json_add_null(object, figure->name);
                if (r >= 0)
                        r = json_add_string(unknown, figure->name,
                                            !receipt    ? RAN_NOT
                                            : cgroup_v2 ? figure->why_v2
                                                        : figure->why_v1);
        }
        if (r >= 0)
                r = json_add_bool(object, "warm", warm);
        if (r >= 0)
                r = add_time(object, "started_at", receipt, receipt ? receipt->started_at : 0);
        if (r >= 0)
                r = add_time(object, "ended_at", receipt, receipt ? receipt->ended_at : 0);
        if (r >= 0)
                r = json_add(object, "unknown", TAKE_PTR(unknown));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(object);
        return 0;
}
