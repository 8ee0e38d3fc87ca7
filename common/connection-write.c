/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/epoll.h>

#include "connection-internal.h"
#include "json-util.h"
#include "time-util.h"

enum {
        WRITE_MAX = 4 << 20,     /* bytes written in one go before others get their turn */
        QUEUE_VECTORS = 64,      /* chunks of the queue in one write */
        COALESCE_MAX = 64 << 10, /* from here on copying costs more than a system call */
};

static void connection_check_low_water(Connection *c) {
        if (c->congested && c->queue.size <= c->low_water) {
                c->congested = false;
                c->drained_due = true;
                connection_defer(c);
        }
}

/* What the peer sent before it went away (a REFUSED with the reason, say) is still to be read, so this is
 * not yet the end. */
static void connection_write_failed(Connection *c, int error) {
        c->write_error = error;
        send_queue_clear(&c->queue);
        c->blocked = false;
        c->read_due = true;
        connection_defer(c);
}

/* One write. Returns the number of bytes, 0 when the socket is full or broken. */
static size_t connection_write(Connection *c, const struct iovec *iov, size_t n_iov) {
        uint32_t events = EPOLLOUT;
        ssize_t n;

        n = c->transport->writev(c->transport_data, c->fd, iov, (int) n_iov, &events);
        if (n == -EAGAIN) {
                c->blocked = true;
                c->write_events = events;
                return 0;
        }
        if (n < 0) {
                connection_write_failed(c, (int) n);
                return 0;
        }
        c->statistics.bytes_out += (uint64_t) n;
        return (size_t) n;
}

void connection_flush(Connection *c) {
        size_t written = 0;

        if ((c->state != STATE_OPEN && c->state != STATE_FINISHING) || c->write_error < 0)
                return;
        c->blocked = false;
        while (c->queue.size > 0 && !c->blocked) {
                struct iovec iov[QUEUE_VECTORS];
                size_t n_iov = send_queue_peek(&c->queue, iov, ELEMENTSOF(iov)), n;

                n = connection_write(c, iov, n_iov);
                if (c->write_error < 0)
                        return;
                send_queue_consume(&c->queue, n);
                written += n;
                if (written >= WRITE_MAX && c->queue.size > 0) {
                        c->blocked = true;
                        c->write_events = EPOLLOUT;
                }
        }
        if (c->state == STATE_FINISHING && c->queue.size == 0 && !c->shut_down) {
                uint32_t events = EPOLLOUT;
                int r = c->transport->shutdown(c->transport_data, c->fd, &events);

                if (r == -EAGAIN) {
                        c->blocked = true;
                        c->write_events = events;
                } else if (r < 0) {
                        connection_close(c, c->close_error, NULL);
                        return;
                } else
                        c->shut_down = true;
        }
        connection_check_low_water(c);
        connection_update_events(c);
}

int connection_send_text(Connection *c, FrameType type, const char *json, size_t json_size,
                         const struct iovec *payloads, size_t n_payloads) {
        uint8_t head[FRAME_HEADER_SIZE + 4 * FRAME_PAYLOAD_COUNT_MAX];
        struct iovec iov[QUEUE_VECTORS + 2 + FRAME_PAYLOAD_COUNT_MAX];
        size_t n_queued, n_iov, total, written = 0;
        bool tried = false;
        uint64_t iteration = 0;
        ssize_t head_size;
        int r;

        if (c->state == STATE_FINISHING || c->state == STATE_CLOSED || c->write_error < 0)
                return -ENOTCONN;
        head_size = frame_head_write(head, type, json_size, payloads, n_payloads);
        if (head_size < 0)
                return (int) head_size;

        n_queued = n_iov = send_queue_peek(&c->queue, iov, QUEUE_VECTORS);
        iov[n_iov++] = (struct iovec){ head, (size_t) head_size };
        if (json_size > 0)
                iov[n_iov++] = (struct iovec){ (char *) json, json_size };
        for (size_t i = 0; i < n_payloads; i++)
                if (payloads[i].iov_len > 0)
                        iov[n_iov++] = payloads[i];
        total = 0;
        for (size_t i = n_queued; i < n_iov; i++)
                total += iov[i].iov_len;
        if (c->queue.size + total > CONNECTION_QUEUE_MAX)
                return -ENOBUFS;

        /* Written at once: the first frame within one event handler (nobody waits for it longer than
         * needed), and from COALESCE_MAX on (copying would cost more than it saves). Everything else goes
         * out together when the handler has returned: the loop handles one event per iteration. */
        (void) sd_event_get_iteration(c->event, &iteration);
        if (c->state == STATE_OPEN && !c->blocked && n_queued < QUEUE_VECTORS &&
            ((c->queue.size == 0 && c->write_iteration != iteration) ||
             c->queue.size + total >= COALESCE_MAX)) {
                size_t queued = c->queue.size;

                c->write_iteration = iteration;
                tried = true;
                written = connection_write(c, iov, n_iov);
                if (c->write_error < 0)
                        return 0;
                if (written < queued) {
                        send_queue_consume(&c->queue, written);
                        written = 0;
                } else {
                        send_queue_consume(&c->queue, queued);
                        written -= queued;
                }
                /* A socket that took a part only is full. */
                if (written < total)
                        c->blocked = true;
        }
        if (written < total) {
                r = send_queue_append(&c->queue, iov + n_queued, n_iov - n_queued, written);
                if (r < 0) {
                        /* A frame of which a part is on the wire, or in a record on its way there, cannot be
                         * taken back. */
                        if (tried)
                                connection_close(c, -ENOMEM, NULL);
                        return r;
                }
                if (c->queue.size > c->high_water)
                        c->congested = true;
                if (!c->blocked)
                        connection_defer(c);
        }
        c->statistics.frames_out++;
        connection_check_low_water(c);
        connection_update_events(c);
        return 0;
}

int connection_send(Connection *c, FrameType type, json_object *json, const struct iovec *payloads,
                    size_t n_payloads) {
        const char *text = NULL;
        size_t size = 0;

        if (json) {
                text = json_text(json, &size);
                if (!text)
                        return -ENOMEM;
        }
        return connection_send_text(c, type, text, size, payloads, n_payloads);
}

size_t connection_queued(const Connection *c) {
        return c->queue.size;
}

bool connection_is_congested(const Connection *c) {
        return c->congested;
}

void connection_set_watermarks(Connection *c, size_t high, size_t low) {
        c->high_water = high;
        c->low_water = MIN(low, high);
}

void connection_finish(Connection *c, int error, const char *why) {
        if (c->state == STATE_CLOSED || c->state == STATE_FINISHING)
                return;
        if (c->state != STATE_OPEN || c->write_error < 0) {
                connection_close(c, error, why);
                return;
        }
        connection_set_reason(c, error, why);
        c->state = STATE_FINISHING;
        c->paused = false;
        (void) sd_event_source_set_enabled(c->io, SD_EVENT_ON);
        c->hello_timer = sd_event_source_disable_unref(c->hello_timer);
        c->backlog = mfree(c->backlog);
        c->backlog_size = 0;
        c->frame_since = 0;
        connection_arm_timer(c, connection_now(c) + CONNECTION_FINISH_TIMEOUT_S * USEC_PER_SEC);
        if (!c->blocked)
                connection_defer(c);
        connection_update_events(c);
}
