/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"
#include "json-util.h"
#include "query.h"
#include "why-file.h"

static char folder[] = "/tmp/test-why-file-XXXXXX", path[64];

static int set_up(void **state) {
        memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
        if (!mkdtemp(folder))
                return -1;
        snprintf(path, sizeof(path), "%s/.failures", folder);
        return 0;
}

static int tear_down(void **state) {
        (void) unlink(path);
        return rmdir(folder);
}

static Id number(uint8_t n) {
        return (Id){ { 0xab, 0xcd, n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 } };
}

static WhyFile *open_file(unsigned records) {
        WhyFile *file;

        OK(why_file_open(folder, records, &file));
        return file;
}

static void assert_found(const WhyFile *file, const char *owner, const char *hex, const char *sentence) {
        WhyRecord record;

        OK(why_file_find(file, owner, hex, 0, &record));
        assert_string_equal(record.sentence, sentence);
}

static void test_reopened(void **state) {
        WhyFile *file = open_file(100), *second;
        WhyRecord record;
        char hex[ID_HEX_SIZE];

        OK(why_file_add(file, number(1), "alice", "memory", 1000, "the first"));
        OK(why_file_add(file, number(2), "bob", "exit", 2000, "the second"));
        OK(why_file_add(file, number(1), "alice", "exit", 3000, "the first again"));
        assert_int_equal(why_file_open(folder, 100, &second), -EBUSY);
        for (unsigned i = 0; i < 2; i++) {
                assert_found(file, "alice", id_to_hex(number(1), hex), "the first again");
                assert_found(file, "alice", "abcd", "the first again");
                assert_found(file, NULL, "abcd02", "the second");
                assert_int_equal(why_file_find(file, NULL, "abcd", 0, &record), -ENOTUNIQ);
                assert_int_equal(why_file_find(file, "alice", "abcd02", 0, &record), -ENOENT);
                assert_int_equal(why_file_find(file, "bob", "abcd02", 2001, &record), -ENOENT);
                assert_int_equal(why_file_find(file, "bob", "xyz", 0, &record), -ENOENT);
                OK(why_file_find(file, "bob", "abcd02", 2000, &record));
                assert_string_equal(record.kind, "exit");
                assert_int_equal(record.ended_at, 2000);
                why_file_close(file);
                file = open_file(100);
        }
        why_file_close(file);
}

/* The oldest gives way, also in the next process. */
static void test_ring(void **state) {
        WhyFile *file = open_file(4);
        WhyRecord record;
        char hex[ID_HEX_SIZE];
        struct stat status;

        for (uint8_t i = 1; i <= 10; i++) {
                OK(why_file_add(file, number(i), "alice", "exit", i, "sentence"));
                if (i % 3 == 0) {
                        why_file_close(file);
                        file = open_file(4);
                }
        }
        OK(stat(path, &status));
        assert_int_equal(status.st_size, 4 * sizeof(WhyRecord));
        assert_int_equal(status.st_mode & 0777, 0600);
        for (uint8_t i = 1; i <= 10; i++)
                assert_int_equal(why_file_find(file, "alice", id_to_hex(number(i), hex), 0, &record),
                                 i > 6 ? 0 : -ENOENT);
        why_file_close(file);
}

static void test_damaged(void **state) {
        WhyFile *file = open_file(100);
        WhyRecord record;
        int fd;

        for (uint8_t i = 1; i <= 3; i++)
                OK(why_file_add(file, number(i), "alice", "exit", i, "sentence"));
        why_file_close(file);
        fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "?", 1, 2 * (off_t) sizeof(WhyRecord) + 200), 1);
        OK(ftruncate(fd, 4 * (off_t) sizeof(WhyRecord) - 1)); /* as a full disk leaves it */
        OK(close(fd));
        file = open_file(100);
        assert_found(file, "alice", "abcd01", "sentence");
        assert_int_equal(why_file_find(file, "alice", "abcd02", 0, &record), -ENOENT);
        assert_int_equal(why_file_find(file, "alice", "abcd03", 0, &record), -ENOENT);
        OK(why_file_add(file, number(4), "alice", "exit", 4, "after it"));
        assert_found(file, "alice", "abcd04", "after it");
        why_file_close(file);
}

static void test_cut(void **state) {
        WhyFile *file = open_file(100);
        char sentence[2000] = { 0 };
        WhyRecord record;

        for (size_t i = 0; i + 2 < sizeof(sentence); i += 2)
                memcpy(sentence + i, "\xc3\xa4", 2);
        OK(why_file_add(file, number(1), "alice", "exit", 1, sentence));
        OK(why_file_find(file, "alice", "abcd", 0, &record));
        assert_int_equal(strlen(record.sentence), (WHY_SENTENCE_SIZE - 1) / 2 * 2);
        assert_true(utf8_is_valid(record.sentence, strlen(record.sentence)));
        why_file_close(file);
}

static void assert_why(Manager *m, const char *user, const char *hex, QueryError error, const char *says) {
        const QueryAsker asker = { .user = user };
        _cleanup_(json_putp) json_object *args = NULL, *result = NULL;
        _cleanup_(freep) char *message = NULL;

        OK(json_new_object(&args));
        OK(json_add_string(args, "id", hex));
        assert_int_equal(query_run(m, &asker, "why", args, &result, &message), error);
        if (error == QUERY_OK)
                message = strdup(json_text(result, NULL));
        if (!strstr(message, says))
                fail_msg("'%s' does not say '%s'", message, says);
}

/* `why` answers the same before and after a restart, and nobody else. */
static void test_restart(void **state) {
        char hex[ID_HEX_SIZE];
        Manager *m = fixture_new();
        Task *task;

        m->failures = open_file(100);
        (void) fixture_node(m, "n1", 2, MIB(100));
        task = fixture_task(fixture_job(fixture_session(m, "alice"), 1, MIB(1)));
        (void) fixture_session(m, "bob");
        id_to_hex(task->id, hex);
        task_end(task, OUTCOME_EXIT, "{\"kind\":\"exit\",\"status\":3}", NULL, 0, NULL);
        task_deliver(task);
        assert_why(m, "alice", hex, QUERY_OK, "ended by itself with status 3");
        manager_free(m);

        m = fixture_new();
        m->failures = open_file(100);
        assert_why(m, "alice", hex, QUERY_OK, "ended by itself with status 3");
        hex[8] = '\0';
        assert_why(m, "alice", hex, QUERY_OK, "ended by itself with status 3");
        assert_why(m, "bob", hex, QUERY_NOT_FOUND, "for 7 days why one failed");
        manager_free(m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_reopened, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_ring, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_cut, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_restart, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
