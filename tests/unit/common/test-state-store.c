/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fd-util.h"
#include "state-store.h"
#include "time-util.h"

static char *directory;

static int setup(void **state) {
        directory = test_directory();
        return 0;
}

static int teardown(void **state) {
        test_directory_remove(directory);
        return 0;
}

static StateStore *store_open(void) {
        StateStore *store;
        char path[256];

        snprintf(path, sizeof(path), "%s/store", directory);
        assert_ok(state_store_file_open(path, &store));
        return store;
}

static void expect(StateStore *store, const char *key, const char *value, uint64_t version) {
        _cleanup_(freep) void *got = NULL;
        uint64_t got_version;
        size_t size;

        assert_ok(state_store_get(store, key, &got, &size, &got_version));
        assert_int_equal(size, strlen(value));
        assert_string_equal(got, value);
        assert_int_equal(got_version, version);
}

static void test_versions(void **state) {
        StateStore *store = store_open(), *second;
        char path[256];
        uint64_t version = 0;

        assert_error(state_store_get(store, "epoch", NULL, NULL, NULL), ENOENT);
        assert_error(state_store_compare_and_set(store, "epoch", 1, "1", 1, &version), ESTALE);
        assert_ok(state_store_compare_and_set(store, "epoch", 0, "1", 1, &version));
        assert_int_equal(version, 1);
        assert_error(state_store_compare_and_set(store, "epoch", 0, "x", 1, &version), ESTALE);
        assert_ok(state_store_compare_and_set(store, "epoch", 1, "22", 2, &version));
        assert_int_equal(version, 2);
        expect(store, "epoch", "22", 2);
        assert_ok(state_store_set(store, "epoch", "", 0));
        expect(store, "epoch", "", 3);
        assert_error(state_store_remove(store, "epoch", 2), ESTALE);
        assert_ok(state_store_remove(store, "epoch", 3));
        assert_error(state_store_remove(store, "epoch", 0), ENOENT);
        assert_ok(state_store_compare_and_set(store, "epoch", 0, "again", 5, &version));
        assert_int_equal(version, 1);

        /* One at a time. */
        snprintf(path, sizeof(path), "%s/store", directory);
        assert_error(state_store_file_open(path, &second), EBUSY);
        state_store_close(store);
        store = store_open();
        expect(store, "epoch", "again", 1);
        state_store_close(store);
        assert_error(state_store_file_open("relative", &second), EINVAL);
        assert_error(state_store_file_open("/nonexistent/a/b", &second), ENOENT);
}

static void test_keys(void **state) {
        static const char *const good[] = {
                "a",   "nodes/node-1.example", "nodes/Zoë ü", "..", "a/./b", "%41", "a+b", ".lock", ".new-1",
                "a\nb"
        };
        static const char *const bad[] = { "", "/", "a/", "/a", "a//b", "1/2/3/4/5/6/7/8/9" };
        StateStore *store = store_open();
        char **keys, part[66];

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_ok(state_store_compare_and_set(store, good[i], 0, good[i], strlen(good[i]), NULL));
        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                expect(store, good[i], good[i], 1);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(state_store_compare_and_set(store, bad[i], 0, "", 0, NULL), EINVAL);
        memset(part, 'x', 65);
        part[65] = '\0';
        assert_false(state_key_is_valid(part));
        assert_true(state_key_is_valid(part + 1));
        assert_ok(state_store_list(store, "", &keys));
        assert_int_equal(strv_length(keys), ELEMENTSOF(good));
        for (char **i = keys; i[1]; i++)
                assert_true(strcmp(i[0], i[1]) < 0);
        keys = strv_free(keys);
        /* Whole parts, and not the prefix itself. */
        assert_ok(state_store_compare_and_set(store, "nodes", 0, "", 0, NULL));
        assert_ok(state_store_compare_and_set(store, "nodes2/x", 0, "", 0, NULL));
        assert_ok(state_store_list(store, "nodes", &keys));
        assert_int_equal(strv_length(keys), 2);
        assert_string_equal(keys[0], "nodes/Zoë ü");
        keys = strv_free(keys);
        assert_ok(state_store_list(store, "nothing", &keys));
        assert_int_equal(strv_length(keys), 0);
        strv_free(keys);
        assert_error(state_store_compare_and_set(store, "large", 0, good, STATE_VALUE_MAX + 1, NULL), EFBIG);
        state_store_close(store);
}

typedef struct Seen {
        unsigned n;
        char key[64];
        uint64_t version, drop;
} Seen;

static void on_change(StateStore *store, const char *key, uint64_t version, void *userdata) {
        Seen *seen = userdata;

        seen->n++;
        snprintf(seen->key, sizeof(seen->key), "%s", key);
        seen->version = version;
        if (seen->drop)
                state_store_unwatch(store, seen->drop);
}

static void test_watch(void **state) {
        StateStore *store = store_open();
        Seen nodes = { 0 }, everything = { 0 };
        uint64_t watch;

        assert_ok(state_store_watch(store, "nodes", on_change, &nodes, &nodes.drop));
        assert_ok(state_store_watch(store, "", on_change, &everything, &watch));
        assert_ok(state_store_set(store, "nodesx", "1", 1));
        assert_int_equal(nodes.n, 0);
        assert_int_equal(everything.n, 1);
        assert_ok(state_store_set(store, "nodes/a", "1", 1));
        assert_int_equal(nodes.n, 1);
        assert_string_equal(nodes.key, "nodes/a");
        assert_int_equal(nodes.version, 1);
        assert_int_equal(everything.n, 2);
        /* It has dropped itself. */
        assert_ok(state_store_remove(store, "nodes/a", 0));
        assert_int_equal(nodes.n, 1);
        assert_int_equal(everything.n, 3);
        assert_int_equal(everything.version, 0);
        state_store_unwatch(store, watch);
        state_store_close(store);
}

/* Every cut and every flipped byte of a file is noticed. */
static void test_damage(void **state) {
        StateStore *store = store_open();
        _cleanup_(freep) char *good = NULL;
        char path[256];
        size_t size;

        assert_ok(state_store_set(store, "key", "a value", 7));
        snprintf(path, sizeof(path), "%s/store/key", directory);
        assert_ok(read_file_full(path, 4096, &good, &size));
        for (size_t cut = 0; cut < size; cut++) {
                test_file_write(path, good, cut);
                assert_error(state_store_get(store, "key", NULL, NULL, NULL), EBADMSG);
        }
        for (size_t i = 0; i < size; i++) {
                good[i] ^= 0x10;
                test_file_write(path, good, size);
                assert_error(state_store_get(store, "key", NULL, NULL, NULL), EBADMSG);
                good[i] ^= 0x10;
        }
        {
                char longer[256];

                memcpy(longer, good, size);
                longer[size] = 0;
                test_file_write(path, longer, size + 1);
                assert_error(state_store_get(store, "key", NULL, NULL, NULL), EBADMSG);
        }
        /* The right content under another name is damage too. */
        snprintf(path, sizeof(path), "%s/store/other", directory);
        test_file_write(path, good, size);
        assert_error(state_store_get(store, "other", NULL, NULL, NULL), EBADMSG);
        /* It is not overwritten by accident, but can be removed. */
        assert_error(state_store_set(store, "other", "x", 1), EBADMSG);
        assert_ok(state_store_remove(store, "other", 0));
        assert_ok(state_store_set(store, "other", "x", 1));
        state_store_close(store);
}

/* Shared with the writer that is killed. */
typedef struct Progress {
        volatile uint64_t durable; /* the number of the last set that has returned */
} Progress;

static void _noreturn_ writer(Progress *progress, uint64_t from) {
        StateStore *store = store_open();
        char value[20000];

        for (uint64_t i = from + 1;; i++) {
                size_t size = (size_t) (i * 7919 % sizeof(value));

                /* Its first bytes say which one it is, the rest follows from that. */
                memset(value, (int) (i % 251), sizeof(value));
                memcpy(value, &i, sizeof(i));
                if (state_store_set(store, "counter", value, MAX(size, sizeof(i))) < 0)
                        _exit(1);
                progress->durable = i;
        }
}

/* A kill cannot lose what is in the page cache, but it does stop the writer between any two system calls:
 * what is checked is that no order of them leaves anything but a whole value that is at least as new as the
 * last one confirmed. */
static void test_kill(void **state) {
        Progress *progress =
                mmap(NULL, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t last = 0;

        assert_true(progress != MAP_FAILED);
        srand(3);
        for (int round = 0; round < 40; round++) {
                _cleanup_(freep) void *value = NULL;
                uint64_t number;
                StateStore *store;
                char **keys;
                size_t size;
                pid_t pid;

                pid = fork();
                assert_ok(pid);
                if (pid == 0)
                        writer(progress, last);
                while (progress->durable == last && waitpid(pid, NULL, WNOHANG) == 0)
                        usleep(200);
                usleep((useconds_t) rand() % 4000);
                assert_ok(kill(pid, SIGKILL));
                assert_int_equal(waitpid(pid, NULL, 0), pid);

                store = store_open();
                assert_ok(state_store_get(store, "counter", &value, &size, NULL));
                memcpy(&number, value, sizeof(number));
                assert_true(number == progress->durable || number == progress->durable + 1);
                assert_int_equal(size, MAX((size_t) (number * 7919 % 20000), sizeof(number)));
                for (size_t i = sizeof(number); i < size; i++)
                        assert_int_equal(((uint8_t *) value)[i], number % 251);
                assert_ok(state_store_list(store, "", &keys));
                assert_int_equal(strv_length(keys), 1);
                strv_free(keys);
                last = number;
                progress->durable = number;
                state_store_close(store);
        }
        munmap(progress, sizeof(Progress));
}

static void test_temporaries(void **state) {
        StateStore *store = store_open();
        char path[256];
        struct stat st;

        assert_ok(state_store_set(store, "key", "x", 1));
        state_store_close(store);
        snprintf(path, sizeof(path), "%s/store/.new-77", directory);
        test_file_write(path, "half", 4);
        store = store_open();
        assert_int_equal(stat(path, &st), -1);
        expect(store, "key", "x", 1);
        state_store_close(store);
        snprintf(path, sizeof(path), "%s/store", directory);
        assert_ok(stat(path, &st));
        assert_int_equal(st.st_mode & 07777, 0700);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_versions), TEST(test_keys), TEST(test_watch),
                TEST(test_damage),   TEST(test_kill), TEST(test_temporaries),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
