/* SPDX-License-Identifier: Apache-2.0 */
#include "resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <net/if.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fd-util.h"
#include "parse-util.h"
#include "time-util.h"

/* What the child writes, in one write of less than PIPE_BUF bytes. */
typedef struct Answer {
        int32_t error;
        uint32_t n;
        struct {
                uint32_t size;
                union {
                        struct sockaddr_in v4;
                        struct sockaddr_in6 v6;
                } address;
        } addresses[RESOLVER_ADDRESSES_MAX];
} Answer;
_Static_assert(sizeof(Answer) <= 4096, "one write to a pipe must be atomic");

struct Resolver {
        sd_event_source *source, *timer;
        pid_t child;
        int pipe;
        ResolverCallback callback;
        void *userdata;
        ResolvedAddress numeric;
        Answer answer;
        size_t filled;
};

Resolver *resolver_free(Resolver *r) {
        if (!r)
                return NULL;
        sd_event_source_disable_unref(r->source);
        sd_event_source_disable_unref(r->timer);
        close_fd(r->pipe);
        if (r->child > 0) {
                /* It has answered and is on its way out, or nobody wants its answer: either way this takes
                 * no time. */
                (void) kill(r->child, SIGKILL);
                while (waitpid(r->child, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        return mfree(r);
}

static void resolver_finish(Resolver *r, int error, const ResolvedAddress *addresses, size_t n) {
        r->source = sd_event_source_disable_unref(r->source);
        r->timer = sd_event_source_disable_unref(r->timer);
        /* The last use of r: the callback may free it. */
        r->callback(r, error, addresses, n, r->userdata);
}

static int on_numeric(sd_event_source *source, void *userdata) {
        Resolver *r = userdata;

        resolver_finish(r, 0, &r->numeric, 1);
        return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        resolver_finish(userdata, -ETIMEDOUT, NULL, 0);
        return 0;
}

static void resolver_take_answer(Resolver *r) {
        ResolvedAddress addresses[RESOLVER_ADDRESSES_MAX] = { 0 };

        if (r->filled != sizeof(r->answer) || r->answer.n > RESOLVER_ADDRESSES_MAX) {
                resolver_finish(r, -EIO, NULL, 0);
                return;
        }
        if (r->answer.error < 0 || r->answer.n == 0) {
                resolver_finish(r, r->answer.error < 0 ? r->answer.error : -ENOENT, NULL, 0);
                return;
        }
        for (size_t i = 0; i < r->answer.n; i++) {
                addresses[i].size =
                        MIN(r->answer.addresses[i].size, (uint32_t) sizeof(r->answer.addresses[i].address));
                memcpy(&addresses[i].address, &r->answer.addresses[i].address, addresses[i].size);
        }
        resolver_finish(r, 0, addresses, r->answer.n);
}

static int on_pipe(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Resolver *r = userdata;
        ssize_t n;

        n = read(fd, (uint8_t *) &r->answer + r->filled, sizeof(r->answer) - r->filled);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n > 0)
                r->filled += (size_t) n;
        if (n <= 0 || r->filled == sizeof(r->answer))
                resolver_take_answer(r);
        return 0;
}

static int32_t error_from_gai(int error) {
        switch (error) {
        case EAI_NONAME:
        case EAI_NODATA:
        case EAI_FAIL:
        case EAI_FAMILY:
        case EAI_ADDRFAMILY:
                return -ENOENT;
        case EAI_AGAIN:
                return -EAGAIN;
        case EAI_MEMORY:
                return -ENOMEM;
        case EAI_SYSTEM:
                return errno > 0 ? -errno : -EIO;
        default:
                return -EIO;
        }
}

static void _noreturn_ child_run(const char *host, uint16_t port, int pipe_fd) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                                        .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV };
        struct addrinfo *list = NULL;
        Answer answer = { 0 };
        char service[8];
        sigset_t none;
        int error;

        /* What the parent has open (connections above all) must not live on here: a peer would not see them
         * end. */
        if (dup2(pipe_fd, STDERR_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0U, 0) < 0)
                _exit(EXIT_FAILURE);
        sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) signal(SIGTERM, SIG_DFL);
        (void) signal(SIGINT, SIG_DFL);
        /* Should the parent die meanwhile. */
        (void) alarm(2 * RESOLVER_TIMEOUT_S);
        snprintf(service, sizeof(service), "%u", (unsigned) port);
        error = getaddrinfo(host, service, &hints, &list);
        if (error != 0)
                answer.error = error_from_gai(error);
        for (struct addrinfo *i = list; i && error == 0 && answer.n < RESOLVER_ADDRESSES_MAX;
             i = i->ai_next) {
                if (i->ai_addrlen > sizeof(answer.addresses[0].address))
                        continue;
                answer.addresses[answer.n].size = i->ai_addrlen;
                memcpy(&answer.addresses[answer.n].address, i->ai_addr, i->ai_addrlen);
                answer.n++;
        }
        _exit(fd_write_all(STDERR_FILENO, &answer, sizeof(answer)) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static int resolver_fork(Resolver *resolver, sd_event *event, const char *host, uint16_t port) {
        _cleanup_(close_fdp) int write_end = -EBADF;
        int fds[2], r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        resolver->pipe = fds[0];
        write_end = fds[1];
        r = fd_set_nonblock(resolver->pipe, true);
        if (r < 0)
                return r;
        resolver->child = fork();
        if (resolver->child < 0)
                return -errno;
        if (resolver->child == 0)
                child_run(host, port, write_end);
        r = sd_event_add_io(event, &resolver->source, resolver->pipe, EPOLLIN, on_pipe, resolver);
        if (r < 0)
                return r;
        return sd_event_add_time_relative(event, &resolver->timer, CLOCK_MONOTONIC,
                                          RESOLVER_TIMEOUT_S * USEC_PER_SEC, USEC_PER_SEC / 4, on_timeout,
                                          resolver);
}

int resolver_start(sd_event *event, const char *host, uint16_t port, ResolverCallback callback,
                   void *userdata, Resolver **ret) {
        _cleanup_(resolver_freep) Resolver *resolver = NULL;
        int r;

        if (isempty(host) || strlen(host) > ADDRESS_HOST_MAX)
                return -EINVAL;
        resolver = new0(Resolver);
        if (!resolver)
                return -ENOMEM;
        resolver->pipe = -EBADF;
        resolver->callback = callback;
        resolver->userdata = userdata;
        r = sockaddr_from_numeric(host, port, &resolver->numeric.address, &resolver->numeric.size);
        if (r >= 0)
                r = sd_event_add_defer(event, &resolver->source, on_numeric, resolver);
        else
                r = resolver_fork(resolver, event, host, port);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(resolver);
        return 0;
}

int sockaddr_from_numeric(const char *host, uint16_t port, struct sockaddr_storage *ret,
                          socklen_t *ret_size) {
        struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
        const char *scope = strchr(host, '%');
        char plain[INET6_ADDRSTRLEN];

        if (streq(host, "*"))
                host = "::";
        if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
                memset(ret, 0, sizeof(*ret));
                memcpy(ret, &v4, sizeof(v4));
                *ret_size = sizeof(v4);
                return 0;
        }
        if (scope) {
                if ((size_t) (scope - host) >= sizeof(plain))
                        return -EINVAL;
                memcpy(plain, host, (size_t) (scope - host));
                plain[scope - host] = '\0';
                v6.sin6_scope_id = if_nametoindex(scope + 1);
                if (v6.sin6_scope_id == 0)
                        return -EINVAL;
                host = plain;
        }
        if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
                memset(ret, 0, sizeof(*ret));
                memcpy(ret, &v6, sizeof(v6));
                *ret_size = sizeof(v6);
                return 0;
        }
        return -EINVAL;
}

char *sockaddr_to_string(const struct sockaddr *address, socklen_t size, bool with_port,
                         char buffer[static SOCKADDR_STRING_SIZE]) {
        char host[INET6_ADDRSTRLEN] = "?", port[8] = "";
        const char *before = "", *behind = "";

        if (address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
                struct sockaddr_in v4;

                memcpy(&v4, address, sizeof(v4));
                inet_ntop(AF_INET, &v4.sin_addr, host, sizeof(host));
                snprintf(port, sizeof(port), ":%u", (unsigned) ntohs(v4.sin_port));
        } else if (address->sa_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
                struct sockaddr_in6 v6;

                memcpy(&v6, address, sizeof(v6));
                if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
                        inet_ntop(AF_INET, v6.sin6_addr.s6_addr + 12, host, sizeof(host));
                else {
                        inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof(host));
                        if (with_port) {
                                before = "[";
                                behind = "]";
                        }
                }
                snprintf(port, sizeof(port), ":%u", (unsigned) ntohs(v6.sin6_port));
        } else if (address->sa_family == AF_UNIX) {
                struct sockaddr_un un = { 0 };

                memcpy(&un, address, MIN((size_t) size, sizeof(un)));
                if (size > offsetof(struct sockaddr_un, sun_path) && un.sun_path[0] == '/')
                        snprintf(buffer, SOCKADDR_STRING_SIZE, "unix:%.*s", (int) sizeof(un.sun_path),
                                 un.sun_path);
                else
                        snprintf(buffer, SOCKADDR_STRING_SIZE, "unix");
                return buffer;
        }
        snprintf(buffer, SOCKADDR_STRING_SIZE, "%s%s%s%s", before, host, behind, with_port ? port : "");
        return buffer;
}

bool sockaddr_is_loopback(const struct sockaddr *address) {
        if (address->sa_family == AF_INET) {
                struct sockaddr_in v4;

                memcpy(&v4, address, sizeof(v4));
                return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
        }
        if (address->sa_family == AF_INET6) {
                struct sockaddr_in6 v6;

                memcpy(&v6, address, sizeof(v6));
                return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
                       (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == 127);
        }
        return address->sa_family == AF_UNIX;
}
