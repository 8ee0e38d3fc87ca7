/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "ctl.h"

#define ARGUMENTS_MAX 12

static int parse(Ctl *ctl, char **ret_message, const char *first, ...) {
        static char *argv[ARGUMENTS_MAX]; /* the operands point into it */
        va_list arguments;
        int argc = 1;

        argv[0] = (char *) "clupyctl";
        va_start(arguments, first);
        for (const char *word = first; word; word = va_arg(arguments, const char *))
                argv[argc++] = (char *) word;
        va_end(arguments);
        argv[argc] = NULL;
        *ctl = (Ctl){};
        *ret_message = mfree(*ret_message);
        return ctl_parse(ctl, argc, argv, ret_message);
}
#define PARSE(...) parse(&ctl, &message, __VA_ARGS__, NULL)

static void test_good(void **state) {
        _cleanup_(freep) char *message = NULL;
        Ctl ctl;

        assert_ok(PARSE("status"));
        assert_ptr_equal(ctl.verb, &verb_status);
        assert_ok(
                PARSE("--master", "clupy://m:1", "tasks", "--json", "--state=queued", "-l", "5", "--ended"));
        assert_string_equal(ctl.master, "clupy://m:1");
        assert_true(ctl.json);
        assert_string_equal(ctl_option(&ctl, "state"), "queued");
        assert_string_equal(ctl_option(&ctl, "limit"), "5");
        assert_string_equal(ctl_option(&ctl, "ended"), "");
        assert_null(ctl_option(&ctl, "owner"));
        assert_ok(PARSE("tasks", "--state="));
        assert_string_equal(ctl_option(&ctl, "state"), "");
        assert_ok(PARSE("logs", "ab", "-f"));
        assert_int_equal(ctl.n_operands, 1);
        assert_string_equal(ctl.operands[0], "ab");
        assert_non_null(ctl_option(&ctl, "follow"));
        assert_ok(PARSE("drain", "--", "--wait"));
        assert_string_equal(ctl.operands[0], "--wait");
        assert_null(ctl_option(&ctl, "wait"));
        assert_ok(PARSE("--help"));
        assert_ok(PARSE("task", "--help"));
        assert_ok(PARSE("task", "show", "ab"));
        assert_int_equal(ctl.n_operands, 2);
}

static void test_bad(void **state) {
        _cleanup_(freep) char *message = NULL;
        Ctl ctl;

        assert_error(PARSE("frobnicate"), EINVAL);
        assert_non_null(strstr(message, "'frobnicate' is no verb"));
        assert_error(PARSE("--json"), EINVAL);
        assert_error(PARSE("why"), EINVAL);
        assert_non_null(strstr(message, "clupyctl why ID"));
        assert_error(PARSE("why", "a", "b"), EINVAL);
        assert_error(PARSE("tasks", "--stat"), EINVAL);
        assert_error(PARSE("tasks", "--state"), EINVAL);
        assert_non_null(strstr(message, "needs an argument"));
        assert_error(PARSE("tasks", "--ended=yes"), EINVAL);
        assert_error(PARSE("--follow", "logs", "ab"), EINVAL);
        assert_error(PARSE("tasks", "-x"), EINVAL);
        assert_error(PARSE("tasks", "-le"), EINVAL);
}

/* Every verb fits the tables that are made for it. */
static void test_verbs(void **state) {
        for (size_t i = 0; i < ctl_n_verbs; i++) {
                const CtlVerb *verb = ctl_verbs[i];

                assert_ptr_equal(ctl_verb_find(verb->name), verb);
                assert_non_null(verb->run);
                assert_true(verb->n_options <= CTL_OPTIONS_MAX);
                for (size_t o = 0; o < verb->n_options; o++)
                        for (size_t g = 0; g < ctl_n_global_options; g++)
                                assert_string_not_equal(verb->options[o].name, ctl_global_options[g].name);
        }
        assert_null(ctl_verb_find(""));
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_verbs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
