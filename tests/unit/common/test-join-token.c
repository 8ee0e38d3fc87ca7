/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "fd-util.h"
#include "folder-file.h"
#include "join-token.h"

#define NOW ((int64_t) 1800000000)

static const Digest authority = { { 1, 2, 3 } };

typedef struct Fixture {
        char *path;
        int folder;
} Fixture;

static int setup(void **state) {
        Fixture *f = new0(Fixture);

        assert_non_null(f);
        f->path = test_directory();
        f->folder = folder_open(f->path, false, 0);
        assert_ok(f->folder);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        close_fd(f->folder);
        test_directory_remove(f->path);
        free(f);
        return 0;
}

static void test_text(void **state) {
        Fixture *f = *state;
        char text[JOIN_TOKEN_TEXT_SIZE], broken[JOIN_TOKEN_TEXT_SIZE + 8];
        JoinToken token, again;

        assert_ok(join_token_new(f->folder, NULL, NOW, 900, &authority, &token));
        join_token_to_string(&token, text);
        assert_int_equal(strlen(text), 125);
        assert_ok(join_token_parse(text, &again));
        assert_memory_equal(&token, &again, sizeof(token));
        snprintf(broken, sizeof(broken), " %s\r\n", text);
        assert_ok(join_token_parse(broken, &again));
        for (size_t i = 0; i < strlen(text); i++) {
                memcpy(broken, text, sizeof(text));
                broken[i] = 'X';
                assert_error(join_token_parse(broken, &again), EINVAL);
                memcpy(broken, text, sizeof(text));
                broken[i] = '\0';
                assert_error(join_token_parse(broken, &again), EINVAL);
        }
        snprintf(broken, sizeof(broken), "%s0", text);
        assert_error(join_token_parse(broken, &again), EINVAL);
}

static void test_take(void **state) {
        Fixture *f = *state;
        _cleanup_(freep) JoinTokenRecord *list = NULL;
        JoinToken any, bound, late, gone;
        char wrong[JOIN_TOKEN_SECRET_SIZE];
        size_t n;

        assert_ok(join_token_new(f->folder, NULL, NOW, 900, &authority, &any));
        assert_ok(join_token_new(f->folder, "node1", NOW + 1, 900, &authority, &bound));
        assert_ok(join_token_new(f->folder, NULL, NOW + 2, 10, &authority, &late));
        assert_ok(join_token_new(f->folder, NULL, NOW + 3, 900, &authority, &gone));
        assert_error(join_token_new(f->folder, "a b", NOW, 900, &authority, &gone), EINVAL);

        memcpy(wrong, any.secret, sizeof(wrong));
        wrong[0] = wrong[0] == '0' ? '1' : '0';
        assert_error(join_token_take(f->folder, any.id, wrong, "node1", NOW), ENOENT);
        assert_error(join_token_take(f->folder, any.id, "", "node1", NOW), ENOENT);
        assert_error(join_token_take(f->folder, "../../etc/passw", any.secret, "node1", NOW), ENOENT);
        assert_ok(join_token_take(f->folder, any.id, any.secret, "node1", NOW));
        assert_error(join_token_take(f->folder, any.id, any.secret, "node1", NOW), EALREADY);
        assert_error(join_token_take(f->folder, any.id, wrong, "node1", NOW), ENOENT);

        assert_error(join_token_take(f->folder, bound.id, bound.secret, "node2", NOW), EXDEV);
        assert_ok(join_token_take(f->folder, bound.id, bound.secret, "node1", NOW));
        assert_error(join_token_take(f->folder, late.id, late.secret, "node1", NOW + 12), ETIME);

        assert_ok(join_token_revoke(f->folder, gone.id));
        assert_error(join_token_revoke(f->folder, gone.id), ENOENT);
        assert_error(join_token_revoke(f->folder, any.id), ENOENT);
        assert_error(join_token_take(f->folder, gone.id, gone.secret, "node1", NOW), EKEYREVOKED);

        assert_ok(join_token_list(f->folder, NOW + 12, &list, &n));
        assert_int_equal(n, 4);
        assert_int_equal(list[0].state, JOIN_TOKEN_USED);
        assert_string_equal(list[1].node, "node1");
        assert_int_equal(list[1].state, JOIN_TOKEN_USED);
        assert_int_equal(list[2].state, JOIN_TOKEN_EXPIRED);
        assert_int_equal(list[3].state, JOIN_TOKEN_REVOKED);
        free(list);
        list = NULL;
        /* What ended a week ago is forgotten. */
        assert_ok(join_token_list(f->folder, NOW + 11 + JOIN_TOKEN_KEPT_S + 1, &list, &n));
        assert_int_equal(n, 3);
}

static void test_secret_is_not_kept(void **state) {
        Fixture *f = *state;
        _cleanup_(freep) char *text = NULL;
        _cleanup_(strv_freep) char **names = NULL;
        JoinToken token;

        assert_ok(join_token_new(f->folder, NULL, NOW, 900, &authority, &token));
        assert_ok(folder_list(f->folder, &names));
        assert_int_equal(strv_length(names), 1);
        assert_ok(folder_read_file(f->folder, names[0], 4096, &text, NULL));
        assert_null(strstr(text, token.secret));
}

/* Of many who take the same token at the same time one gets it. */
static void test_race(void **state) {
        Fixture *f = *state;
        enum { PROCESSES = 8 };
        pid_t children[PROCESSES];
        unsigned taken = 0;
        int gate[2];
        JoinToken token;

        assert_ok(join_token_new(f->folder, NULL, NOW, 900, &authority, &token));
        assert_ok(pipe(gate));
        for (int i = 0; i < PROCESSES; i++) {
                children[i] = fork();
                assert_ok(children[i]);
                if (children[i] == 0) {
                        char c;

                        close(gate[1]);
                        (void) !read(gate[0], &c, 1); /* until all are there */
                        _exit(join_token_take(f->folder, token.id, token.secret, "node1", NOW) == 0 ? 7 : 8);
                }
        }
        close(gate[0]);
        close(gate[1]);
        for (int i = 0; i < PROCESSES; i++) {
                int status;

                assert_int_equal(waitpid(children[i], &status, 0), children[i]);
                assert_true(WIFEXITED(status));
                assert_true(WEXITSTATUS(status) == 7 || WEXITSTATUS(status) == 8);
                taken += WEXITSTATUS(status) == 7;
        }
        assert_int_equal(taken, 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_text, setup, teardown),
                cmocka_unit_test_setup_teardown(test_take, setup, teardown),
                cmocka_unit_test_setup_teardown(test_secret_is_not_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_race, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
