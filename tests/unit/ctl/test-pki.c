/* SPDX-License-Identifier: Apache-2.0 */
/* `clupyctl pki` and `clupyctl token` on folders of the test's own: no daemon, no root. */
#include "test.h"

#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>

#include "ctl.h"
#include "fd-util.h"
#include "json-util.h"
#include "pki.h"

typedef struct Fixture {
        char *base;
} Fixture;

static int setup(void **state) {
        Fixture *f = new0(Fixture);

        assert_non_null(f);
        f->base = test_directory();
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        test_directory_remove(f->base);
        free(f);
        return 0;
}

/* Runs a command line (words at single spaces; "@" stands for the test's folder) and gives what it printed.
 */
static char *run(const Fixture *f, const char *line, int status) {
        char words[32][256], *argv[32], *printed;
        _cleanup_(freep) char *copy = strdup(line), *message = NULL;
        char *rest = copy, *word;
        int argc = 0, saved, file, r;
        Ctl ctl = {};

        while (argc < 31 && (word = strsep(&rest, " "))) {
                const char *at = strchr(word, '@');

                if (at)
                        snprintf(words[argc], sizeof(words[0]), "%.*s%s%s", (int) (at - word), word, f->base,
                                 at + 1);
                else
                        snprintf(words[argc], sizeof(words[0]), "%s", word);
                argv[argc] = words[argc];
                argc++;
        }
        argv[argc] = NULL;
        r = ctl_parse(&ctl, argc, argv, &message);
        if (r < 0)
                fail_msg("%s: %s", line, message);
        fflush(stdout);
        saved = dup(STDOUT_FILENO);
        file = memfd_new("stdout");
        assert_true(saved >= 0 && file >= 0);
        assert_true(dup2(file, STDOUT_FILENO) >= 0);
        r = ctl.verb->run(&ctl);
        fflush(stdout);
        assert_true(dup2(saved, STDOUT_FILENO) >= 0);
        assert_true(lseek(file, 0, SEEK_SET) == 0);
        assert_ok(read_fd_full(file, 1 << 20, &printed, NULL));
        close_fd(file);
        close_fd(saved);
        for (size_t i = 0; i < ELEMENTSOF(ctl.joined); i++)
                free(ctl.joined[i]);
        if (r != status)
                fail_msg("%s: status %d: %s", line, r, printed);
        return printed;
}

static void assert_run(const Fixture *f, const char *line, int status, const char *contains) {
        _cleanup_(freep) char *printed = run(f, line, status);

        if (contains && !strstr(printed, contains))
                fail_msg("%s: no '%s' in: %s", line, contains, printed);
}

static json_object *run_json(const Fixture *f, const char *line, int status) {
        _cleanup_(freep) char *printed = run(f, line, status);
        json_object *json;

        assert_ok(json_parse_strict_object(printed, strlen(printed), JSON_DEPTH_MAX, &json));
        return json;
}

static void assert_mode(const Fixture *f, const char *name, mode_t mode) {
        _cleanup_(freep) char *path = strformat("%s/%s", f->base, name);
        struct stat st;

        assert_ok(stat(path, &st));
        assert_int_equal(st.st_mode & 07777, mode);
}

static void test_usage(void **state) {
        assert_run(*state, "clupyctl --json pki frobnicate", CTL_USAGE, "\"usage\"");
        assert_run(*state, "clupyctl --json pki init --reason superseded --folder @/p", CTL_USAGE, "reason");
        assert_run(*state, "clupyctl --json pki init x --folder @/p", CTL_USAGE, "expected");
        assert_run(*state, "clupyctl --json pki init --folder @/p --days 0", CTL_USAGE, "--days");
        assert_run(*state, "clupyctl --json pki init --folder @/p --name a/b", CTL_USAGE, "--name");
        assert_run(*state, "clupyctl --json pki list --folder @/p", CTL_NOT_FOUND,
                   "it is where `clupyctl pki init` was run");
        assert_run(*state, "clupyctl --json pki issue agent n --folder @/p", CTL_NOT_FOUND, "not-found");
        assert_run(*state, "clupyctl --json pki issue agent --folder @/p", CTL_USAGE, "expected");
        assert_run(*state, "clupyctl --json pki issue master x --folder @/p", CTL_USAGE, "expected");
        assert_run(*state, "clupyctl --json pki issue owner x --folder @/p", CTL_USAGE, "expected");
        assert_run(*state, "clupyctl --json pki issue user ../x --folder @/p", CTL_USAGE, "no name");
        assert_run(*state, "clupyctl --json pki show @/none", CTL_NOT_FOUND, "not-found");
        assert_run(*state, "clupyctl --json token new --folder @/p --tokens @/t", CTL_NOT_FOUND,
                   "not-found");
        assert_run(*state, "clupyctl --json --master clupy://m.example token new --folder @/p --tokens @/t",
                   CTL_NOT_FOUND, "(clupy://m.example)");
        assert_run(*state, "clupyctl --json token list --tokens @/t", CTL_OK, "{\"tokens\":[]}");
        assert_run(*state, "clupyctl token list --tokens @/t", CTL_OK, "No tokens.");
        assert_run(*state, "clupyctl --json token revoke 1234 --tokens @/t", CTL_NOT_FOUND,
                   "no token '1234'");
        assert_run(*state, "clupyctl --json token eat", CTL_USAGE, "usage");
}

static void test_life(void **state) {
        const Fixture *f = *state;
        _cleanup_(json_putp) json_object *made = NULL, *list = NULL, *again = NULL, *renewed = NULL;
        json_object *one;

        made = run_json(f,
                        "clupyctl --json pki init --folder @/p --name a.example --name b.example,10.9.8.7",
                        CTL_OK);
        assert_string_equal(
                json_object_get_string(json_object_array_get_idx(member_object(made, "names"), 2)),
                "10.9.8.7");
        assert_mode(f, "p/ca.key", 0600);
        assert_mode(f, "p/master.key", 0600);
        assert_run(f, "clupyctl --json pki init --folder @/p", CTL_FAILED, "\"exists\"");

        /* Times in JSON are milliseconds. */
        assert_true(member_int(made, "not_after") > INT64_C(1600000000000));
        assert_run(f, "clupyctl pki issue agent node1 --folder @/p", CTL_OK,
                   "/p/made/agent-node1'/* root@node1:/etc/clupy/pki/");
        assert_run(f, "clupyctl --json pki issue agent node1 --folder @/p", CTL_FAILED, "\"exists\"");
        assert_mode(f, "p/made/agent-node1", 0700);
        assert_mode(f, "p/made/agent-node1/agent.key", 0600);
        assert_mode(f, "p/made/agent-node1/ca.crt", 0644);
        assert_run(f, "clupyctl pki issue user alice --folder @/p --out @/alice --days 7", CTL_OK,
                   "look for them in ~/.config/clupy");
        assert_mode(f, "alice/user.key", 0600);
        assert_run(f, "clupyctl pki issue admin alice --folder @/p", CTL_OK,
                   "mkdir -p -m 700 .config/clupy");
        assert_run(f, "clupyctl pki show @/alice/user.crt --folder @/p", CTL_OK, "expires-soon");
        assert_run(f, "clupyctl pki show @/p/ca.crt", CTL_OK, "authority, serial");
        assert_run(f, "clupyctl --json pki show @/alice/user.key", CTL_FAILED, "is not a certificate");

        assert_run(f, "clupyctl --json pki revoke alice --folder @/p", CTL_USAGE, "ambiguous");
        assert_run(f, "clupyctl --json pki revoke nobody --folder @/p", CTL_NOT_FOUND, "not-found");
        assert_run(f, "clupyctl --json pki revoke node1 --reason fun --folder @/p", CTL_USAGE, "--reason");
        assert_run(f, "clupyctl pki renew user:alice --folder @/p --out @/alice --days 90", CTL_OK,
                   "user.crt");
        assert_run(f, "clupyctl pki show @/alice/user.crt --folder @/p", CTL_OK, ": valid");
        /* Both of them: the old one and the renewed one. */
        assert_run(f, "clupyctl pki revoke user:alice --reason superseded --folder @/p", CTL_OK,
                   "within 5 s");
        assert_run(f, "clupyctl pki show @/alice/user.crt --folder @/p", CTL_OK, "revoked");
        assert_run(f, "clupyctl --json pki revoke user:alice --folder @/p", CTL_NOT_FOUND,
                   "revoked already");
        assert_run(f, "clupyctl --json pki renew user:alice --folder @/p", CTL_NOT_FOUND, "revoked already");
        assert_run(f, "clupyctl pki renew --folder @/p", CTL_OK, "/master.crt");
        assert_run(f, "clupyctl --json pki issue user root --folder @/p", CTL_USAGE, "issue admin root");
        assert_run(f, "clupyctl pki issue admin root --folder @/p", CTL_OK, "admin root");
        /* One object, however many there are. */
        renewed = run_json(f, "clupyctl --json pki renew admin:alice admin:root --folder @/p", CTL_OK);
        assert_int_equal(member_length(renewed, "renewed"), 2);
        assert_string_equal(
                member_string(json_object_array_get_idx(member_object(renewed, "renewed"), 0), "name"),
                "alice");
        assert_run(f, "clupyctl pki revoke admin:root admin:alice --folder @/p", CTL_OK, "revoked");

        list = run_json(f, "clupyctl pki list --json --folder @/p", CTL_OK);
        assert_int_equal(member_length(list, "certificates"), 9); /* two of each but of node1 */
        one = json_object_array_get_idx(member_object(list, "certificates"), 3);
        assert_true(member_int(one, "not_after") > INT64_C(1600000000000) &&
                    member_int(one, "revoked_at") > INT64_C(1600000000000));
        assert_string_equal(member_string(one, "state"), "revoked");
        assert_string_equal(member_string(one, "reason"), "superseded");
        assert_string_equal(member_string(member_object(list, "authority"), "sha256"),
                            member_string(made, "authority"));
        one = json_object_array_get_idx(member_object(list, "certificates"), 2);
        {
                _cleanup_(freep) char *line = strformat("clupyctl --json pki revoke %.8s --folder @/p",
                                                        member_string(one, "serial"));

                again = run_json(f, line, CTL_OK);
                assert_int_equal(member_length(again, "revoked"), 1);
        }
        assert_run(f, "clupyctl pki list --folder @/p", CTL_OK, "revoked");
}

static void test_token(void **state) {
        const Fixture *f = *state;
        _cleanup_(json_putp) json_object *token = NULL, *list = NULL;
        _cleanup_(freep) char *line = NULL, *elsewhere = NULL, *link = NULL;

        assert_run(f, "clupyctl pki init --folder @/p", CTL_OK, "Next: ");
        assert_run(f, "clupyctl token new --folder @/p --tokens @/t/tokens", CTL_OK, "clupy-join-");
        assert_mode(f, "t/tokens", 0700);
        assert_run(f, "clupyctl --json token new --folder @/p --tokens @/t/tokens --valid 0", CTL_USAGE,
                   "--valid");
        assert_run(f, "clupyctl --json token new --folder @/p --tokens @/t/tokens --valid 31d", CTL_USAGE,
                   "--valid");
        assert_run(f, "clupyctl --json token new --folder @/p --tokens @/t/tokens --node a/b", CTL_USAGE,
                   "--node");
        token = run_json(f,
                         "clupyctl --json token new --folder @/p --tokens @/t/tokens --node n1 --valid 1h",
                         CTL_OK);
        assert_string_equal(member_string(token, "node"), "n1");
        assert_true(member_int(token, "expires_at") > INT64_C(1600000000000));
        line = strformat("clupyctl --json token revoke %s --tokens @/t/tokens", member_string(token, "id"));
        list = run_json(f, line, CTL_OK);
        assert_int_equal(member_length(list, "tokens"), 2);
        assert_run(f, line, CTL_NOT_FOUND, "not-found");
        assert_run(f, "clupyctl token list --tokens @/t/tokens", CTL_OK, "revoked");
        /* Who owns the folder above might let root write elsewhere. */
        elsewhere = strformat("%s/elsewhere", f->base);
        link = strformat("%s/t/link", f->base);
        assert_ok(mkdir(elsewhere, 0755));
        assert_ok(symlink(elsewhere, link));
        assert_run(f, "clupyctl --json token new --folder @/p --tokens @/t/link", CTL_FAILED,
                   "is a symbolic link");
        assert_run(f, "clupyctl --json token list --tokens @/t/link", CTL_FAILED, "is a symbolic link");
        assert_ok(rmdir(elsewhere)); /* it is empty */
}

/* Who reads waits for nobody; who would sign, not for ever. */
static void test_lock(void **state) {
        const Fixture *f = *state;
        _cleanup_(freep) char *folder = strformat("%s/p", f->base);
        _cleanup_(authority_closep) Authority *a = NULL;
        const char *file;

        assert_run(f, "clupyctl pki init --folder @/p", CTL_OK, "Next: ");
        assert_ok(authority_open(folder, AUTHORITY_SIGN, NULL, &a, &file));
        assert_run(f, "clupyctl --json pki list --folder @/p", CTL_OK, "certificates");
        assert_run(f, "clupyctl --json pki issue agent node1 --folder @/p", CTL_FAILED, "\"busy\"");
        authority_unlock(a);
        assert_run(f, "clupyctl --json pki issue agent node1 --folder @/p", CTL_OK, "node1");
}

static char *serial_of(const Fixture *f, const char *file) {
        _cleanup_(freep) char *line = strformat("clupyctl --json pki show %s --folder @/p", file);
        _cleanup_(json_putp) json_object *json = run_json(f, line, CTL_OK);

        return strdup(member_string(json, "serial"));
}

/* Two pairs of one name: neither gets the other's certificate. */
static void test_renew_pairs(void **state) {
        const Fixture *f = *state;
        _cleanup_(freep) char *one = NULL, *two = NULL, *printed = NULL, *line = NULL, *again = NULL,
                              *kept = NULL;

        assert_run(f, "clupyctl pki init --folder @/p", CTL_OK, "Next: ");
        assert_run(f, "clupyctl pki issue user bob --folder @/p --out @/one", CTL_OK, "user bob");
        assert_run(f, "clupyctl pki issue user bob --folder @/p --out @/two", CTL_OK, "user bob");
        one = serial_of(f, "@/one/user.crt");
        two = serial_of(f, "@/two/user.crt");
        printed = run(f, "clupyctl --json pki renew user:bob --folder @/p", CTL_USAGE);
        assert_true(strstr(printed, "\"ambiguous\"") && strstr(printed, one) && strstr(printed, two));
        /* Named by its serial number, but to the other one's place. */
        line = strformat("clupyctl --json pki renew %s --folder @/p --out @/two", one);
        assert_run(f, line, CTL_FAILED, "\"exists\"");
        kept = serial_of(f, "@/two/user.crt");
        assert_string_equal(kept, two);
        free(line);
        line = strformat("clupyctl --json pki renew %s --folder @/p --out @/one", one);
        assert_run(f, line, CTL_OK, "\"renewed\"");
        again = serial_of(f, "@/one/user.crt");
        assert_string_not_equal(again, one);
        /* Nor do two users become one. */
        assert_run(f, "clupyctl pki issue user carol --folder @/p", CTL_OK, "user carol");
        free(line);
        line = strformat("clupyctl --json pki renew %s carol --folder @/p --out @/three", two);
        assert_run(f, line, CTL_USAGE, "\"ambiguous\"");
}

/* What the command says is what happens next. */
static void test_revoke_master(void **state) {
        const Fixture *f = *state;
        _cleanup_(freep) char *alone = NULL, *both = NULL;

        assert_run(f, "clupyctl pki init --folder @/p", CTL_OK, "Next: ");
        alone = run(f, "clupyctl pki revoke master --folder @/p", CTL_OK);
        assert_true(strstr(alone, "pki issue master") && strstr(alone, "ca.crl") &&
                    !strstr(alone, "within 5 s"));
        assert_run(f, "clupyctl pki issue master --folder @/p", CTL_OK, "master");
        assert_run(f, "clupyctl pki issue user bob --folder @/p", CTL_OK, "user bob");
        both = run(f, "clupyctl pki revoke master bob --folder @/p", CTL_OK);
        assert_true(strstr(both, "pki issue master") && strstr(both, "within 5 s"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_usage, setup, teardown),
                cmocka_unit_test_setup_teardown(test_life, setup, teardown),
                cmocka_unit_test_setup_teardown(test_token, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
                cmocka_unit_test_setup_teardown(test_renew_pairs, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoke_master, setup, teardown),
        };

        setlocale(LC_CTYPE, "");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
