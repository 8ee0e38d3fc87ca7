/* SPDX-License-Identifier: Apache-2.0 */
#include "task-log.h"

#include <errno.h>
#include <inttypes.h>
#include <systemd/sd-journal.h>

#include "hashmap.h"
#include "json-util.h"
#include "list.h"
#include "log.h"
#include "parse-util.h"
#include "time-util.h"

enum {
        CLOCK_EVERY = 32, /* entries between two looks at the clock */
        FRAME_TASKS_MAX = 64,
        LINE_MAX_BYTES = 64 << 10,
        UNIT_MAX = 256,
};

/* A task that prints without end takes no more than half of this thread, and delays nobody longer than this.
 */
#define READ_USEC (15 * USEC_PER_MSEC)
#define READ_PAUSE_USEC (15 * USEC_PER_MSEC)
#define PRIORITY (SD_EVENT_PRIORITY_NORMAL + 20)
#define FLUSH_USEC (200 * USEC_PER_MSEC)
#define IDLE_USEC (20 * USEC_PER_SEC)
#define IDENTIFIER "clupy-task"

/* What has been read of one attempt and not yet been passed on. */
typedef struct LogBuffer {
        char key[2 * (sizeof(Id) + sizeof(uint32_t)) + 1];
        Id task;
        uint32_t attempt;
        uint8_t *data;
        size_t size, capacity;
        uint64_t skipped; /* bytes left out in front */
        ListLink order;
} LogBuffer;

struct TaskLog {
        sd_event *event;
        sd_event_source *io, *read_timer, *flush_timer, *idle_timer;
        sd_journal *journal;
        const TaskLogHandlers *handlers;
        void *userdata;
        bool active, connected, complained;
        bool flush_set;
        Hashmap *buffers;
        ListLink in_order; /* of first line */
        size_t bytes;
};

static void log_buffer_free(TaskLog *l, LogBuffer *b) {
        (void) hashmap_remove(l->buffers, b->key);
        list_remove(&b->order);
        l->bytes -= b->size;
        free(b->data);
        free(b);
}

static void task_log_close(TaskLog *l) {
        l->io = sd_event_source_disable_unref(l->io);
        if (l->journal)
                sd_journal_close(l->journal);
        l->journal = NULL;
        (void) sd_event_source_set_enabled(l->read_timer, SD_EVENT_OFF);
}

TaskLog *task_log_free(TaskLog *l) {
        if (!l)
                return NULL;
        task_log_close(l);
        LIST_FOREACH(LogBuffer, b, order, &l->in_order)
                log_buffer_free(l, b);
        hashmap_free(l->buffers);
        sd_event_source_disable_unref(l->read_timer);
        sd_event_source_disable_unref(l->flush_timer);
        sd_event_source_disable_unref(l->idle_timer);
        sd_event_unref(l->event);
        return mfree(l);
}

static void timer_set(sd_event_source *timer, uint64_t usec) {
        (void) sd_event_source_set_time_relative(timer, usec);
        (void) sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

/* Passing on. */

static int frame_add(json_object *array, LogBuffer *b, size_t payload, struct iovec *ret) {
        json_object *object;
        char note[80];
        size_t size;
        int r;

        r = json_append_new_object(array, &object);
        if (r >= 0)
                r = json_add_id(object, "id", b->task);
        if (r >= 0)
                r = json_add_uint64(object, "attempt", b->attempt);
        if (r >= 0)
                r = json_add_uint64(object, "payload", payload);
        if (r < 0)
                return r;
        size = b->size;
        if (b->skipped > 0) {
                int n = snprintf(note, sizeof(note),
                                 "[%" PRIu64 " bytes were printed too fast and left out]\n", b->skipped);

                r = ARRAY_RESERVE(b->data, b->capacity, size + (size_t) n);
                if (r < 0)
                        return r;
                memmove(b->data + n, b->data, size);
                memcpy(b->data, note, (size_t) n);
                size += (size_t) n;
        }
        *ret = (struct iovec){ .iov_base = TAKE_PTR(b->data), .iov_len = size };
        return 0;
}

static int send_frame(TaskLog *l) {
        _cleanup_(json_putp) json_object *json = NULL;
        struct iovec payloads[FRAME_TASKS_MAX];
        json_object *array;
        size_t n = 0, bytes = 0;
        int r;

        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_new_array(json, "tasks", &array);
        LIST_FOREACH(LogBuffer, b, order, &l->in_order) {
                if (r < 0 || n >= FRAME_TASKS_MAX || bytes >= TASK_LOG_FRAME_MAX)
                        break;
                bytes += b->size;
                r = frame_add(array, b, n, payloads + n);
                if (r < 0)
                        break;
                n++;
                log_buffer_free(l, b);
        }
        if (r >= 0 && n > 0)
                l->handlers->send(json, payloads, n, l->userdata);
        for (size_t i = 0; i < n; i++)
                free(payloads[i].iov_base);
        return r;
}

static void task_log_flush_later(TaskLog *l) {
        if (l->flush_set || !l->connected || list_is_empty(&l->in_order))
                return;
        timer_set(l->flush_timer, FLUSH_USEC);
        l->flush_set = true;
}

static int on_flush(sd_event_source *source, uint64_t usec, void *userdata) {
        TaskLog *l = userdata;

        l->flush_set = false;
        if (!l->connected || l->handlers->congested(l->userdata))
                return 0;
        if (send_frame(l) < 0)
                log_oom();
        task_log_flush_later(l);
        return 0;
}

int task_log_add(TaskLog *l, Id task, uint32_t attempt, const void *line, size_t size) {
        char key[sizeof(((LogBuffer *) NULL)->key)];
        LogBuffer *b;
        size_t total;
        int r;

        if (size > TASK_LOG_TASK_MAX - 1)
                size = TASK_LOG_TASK_MAX - 1;
        hex_encode(task.bytes, sizeof(task.bytes), key);
        hex_encode(&attempt, sizeof(attempt), key + 2 * sizeof(task.bytes));
        b = hashmap_get(l->buffers, key);
        if (!b) {
                b = new0(LogBuffer);
                if (!b)
                        return -ENOMEM;
                b->task = task;
                b->attempt = attempt;
                memcpy(b->key, key, sizeof(key));
                r = hashmap_put(l->buffers, b->key, b);
                if (r < 0) {
                        free(b);
                        return r;
                }
                list_append(&l->in_order, &b->order);
        }
        total = b->size + size + 1;
        if (total > TASK_LOG_TASK_MAX) {
                /* The last ones count. A half is dropped at once, or each line would move all. */
                size_t drop = MIN(b->size, MAX(total - TASK_LOG_TASK_MAX, (size_t) TASK_LOG_TASK_MAX / 2));
                uint8_t *end = drop < b->size ? memchr(b->data + drop, '\n', b->size - drop) : NULL;

                drop = end ? (size_t) (end - b->data) + 1 : b->size;
                memmove(b->data, b->data + drop, b->size - drop);
                b->size -= drop;
                b->skipped += drop;
                l->bytes -= drop;
        }
        r = ARRAY_RESERVE(b->data, b->capacity, b->size + size + 1);
        if (r < 0)
                return r;
        memcpy(b->data + b->size, line, size);
        b->data[b->size + size] = '\n';
        b->size += size + 1;
        l->bytes += size + 1;
        task_log_flush_later(l);
        return 0;
}

/* Reading. */

/* A field's value, without "NAME=", borrowed until the next entry. Returns 0, -ENOENT, -errno. */
static int journal_field(sd_journal *journal, const char *name, const char **ret, size_t *ret_size) {
        size_t prefix = strlen(name) + 1, size;
        const void *data;
        int r;

        r = sd_journal_get_data(journal, name, &data, &size);
        if (r < 0)
                return r;
        if (size < prefix)
                return -EBADMSG;
        *ret = (const char *) data + prefix;
        *ret_size = size - prefix;
        return 0;
}

static int journal_string(sd_journal *journal, const char *name, char *buffer, size_t buffer_size) {
        const char *value;
        size_t size;
        int r;

        r = journal_field(journal, name, &value, &size);
        if (r < 0)
                return r;
        if (size >= buffer_size)
                return -ERANGE;
        memcpy(buffer, value, size);
        buffer[size] = '\0';
        return 0;
}

/* Returns 0, also for a line that is nobody's; -errno when the journal fails. */
static int task_log_read_entry(TaskLog *l) {
        char unit[UNIT_MAX], text[ID_HEX_SIZE];
        uint64_t attempt_number;
        const char *message;
        uint32_t attempt;
        size_t size;
        Id task;
        int r;

        /* Anybody may log under our identifier; only the journal writes fields that begin with '_'. */
        r = journal_string(l->journal, "_SYSTEMD_UNIT", unit, sizeof(unit));
        if (r < 0)
                return r == -ENOENT || r == -ERANGE ? 0 : r;
        if (!startswith(unit, "clupy-") || !endswith(unit, ".scope"))
                return 0;
        r = journal_string(l->journal, "CLUPY_TASK_ID", text, sizeof(text));
        if (r >= 0) {
                if (id_from_hex(text, &task) < 0 ||
                    journal_string(l->journal, "CLUPY_ATTEMPT", text, sizeof(text)) < 0 ||
                    parse_uint64(text, &attempt_number) < 0 || attempt_number > UINT32_MAX)
                        return 0;
                attempt = (uint32_t) attempt_number;
        } else if (l->handlers->find_unit(unit, &task, &attempt, l->userdata) < 0)
                return 0;
        r = journal_field(l->journal, "MESSAGE", &message, &size);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        return task_log_add(l, task, attempt, message, MIN(size, (size_t) LINE_MAX_BYTES));
}

static void task_log_read(TaskLog *l) {
        uint64_t begun = now_usec(CLOCK_MONOTONIC);
        int r = 1;

        if (!l->journal || !l->connected)
                return;
        for (unsigned i = 1; l->bytes < TASK_LOG_MEMORY_MAX; i++) {
                if (i % CLOCK_EVERY == 0 && now_usec(CLOCK_MONOTONIC) - begun > READ_USEC)
                        break;
                r = sd_journal_next(l->journal);
                if (r <= 0)
                        break;
                r = task_log_read_entry(l);
                /* A damaged entry is the journal's affair: the next one. */
                if (r < 0)
                        log_debug_errno(r, "Cannot read an entry of the journal");
                r = 1;
        }
        if (r < 0) {
                log_warning_errno(r, "Cannot read the journal: what tasks print is not passed on");
                task_log_close(l);
        } else if (r > 0)
                timer_set(l->read_timer, READ_PAUSE_USEC); /* there is more */
}

static int on_read_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        task_log_read(userdata);
        return 0;
}

static int on_journal(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        TaskLog *l = userdata;
        int r, enabled;

        r = sd_journal_process(l->journal);
        if (r < 0) {
                log_warning_errno(r, "Cannot follow the journal: what tasks print is not passed on");
                task_log_close(l);
                return 0;
        }
        /* While a pause in reading lasts, new entries do not end it. */
        if (r != SD_JOURNAL_NOP && sd_event_source_get_enabled(l->read_timer, &enabled) >= 0 &&
            enabled == SD_EVENT_OFF)
                task_log_read(l);
        return 0;
}

static int task_log_open(TaskLog *l) {
        int fd, events, r;

        /* Task output is in the system's journal: the nodes' drop-in says SplitMode=none. */
        r = sd_journal_open(&l->journal, SD_JOURNAL_LOCAL_ONLY | SD_JOURNAL_SYSTEM);
        if (r < 0)
                return r;
        r = sd_journal_add_match(l->journal, "SYSLOG_IDENTIFIER=" IDENTIFIER, 0);
        if (r >= 0)
                r = sd_journal_set_data_threshold(l->journal, LINE_MAX_BYTES);
        /* A moment back: entries are stamped when journald gets them, and a task may be faster than we. */
        if (r >= 0)
                r = sd_journal_seek_realtime_usec(l->journal, now_usec(CLOCK_REALTIME) - 10 * USEC_PER_MSEC);
        if (r < 0)
                return r;
        fd = sd_journal_get_fd(l->journal);
        if (fd < 0)
                return fd;
        events = sd_journal_get_events(l->journal);
        if (events < 0)
                return events;
        r = sd_event_add_io(l->event, &l->io, fd, (uint32_t) events, on_journal, l);
        return r < 0 ? r : sd_event_source_set_priority(l->io, PRIORITY);
}

static void task_log_start(TaskLog *l) {
        int r;

        if (l->journal)
                return;
        r = task_log_open(l);
        if (r >= 0) {
                l->complained = false;
                task_log_read(l);
                return;
        }
        task_log_close(l);
        log_full_errno(l->complained ? LOG_DEBUG : LOG_WARNING, r,
                       "Cannot open the journal: what tasks print is not passed on");
        l->complained = true;
}

static int on_idle(sd_event_source *source, uint64_t usec, void *userdata) {
        task_log_close(userdata);
        return 0;
}

static int timer_new(sd_event *event, sd_event_time_handler_t callback, TaskLog *l, sd_event_source **ret) {
        int r;

        r = sd_event_add_time_relative(event, ret, CLOCK_MONOTONIC, 0, 5 * USEC_PER_MSEC, callback, l);
        if (r >= 0)
                r = sd_event_source_set_priority(*ret, PRIORITY);
        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

int task_log_new(sd_event *event, const TaskLogHandlers *handlers, void *userdata, TaskLog **ret) {
        _cleanup_(task_log_freep) TaskLog *l = NULL;
        int r;

        l = new0(TaskLog);
        if (!l)
                return -ENOMEM;
        l->event = sd_event_ref(event);
        l->handlers = handlers;
        l->userdata = userdata;
        list_init(&l->in_order);
        r = hashmap_new(HASHMAP_STRING, &l->buffers);
        if (r >= 0)
                r = timer_new(event, on_read_timer, l, &l->read_timer);
        if (r >= 0)
                r = timer_new(event, on_flush, l, &l->flush_timer);
        if (r >= 0)
                r = timer_new(event, on_idle, l, &l->idle_timer);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

void task_log_active(TaskLog *l, bool active) {
        if (!l || l->active == active)
                return;
        l->active = active;
        if (active) {
                (void) sd_event_source_set_enabled(l->idle_timer, SD_EVENT_OFF);
                task_log_start(l);
        } else
                /* The last lines are still on their way, and the next task may come soon. */
                timer_set(l->idle_timer, IDLE_USEC);
}

void task_log_connected(TaskLog *l, bool connected) {
        if (!l)
                return;
        l->connected = connected;
        if (!connected)
                return;
        task_log_read(l);
        task_log_flush_later(l);
}

void task_log_writable(TaskLog *l) {
        if (l)
                task_log_flush_later(l);
}
