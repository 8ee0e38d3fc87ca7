/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "parse-util.h"
#include "time-util.h"

static void test_numbers(void **state) {
        uint64_t u = 0;
        int64_t i = 0;
        double d = 0;
        bool b;

        assert_ok(parse_uint64("18446744073709551615", &u));
        assert_true(u == UINT64_MAX);
        assert_error(parse_uint64("18446744073709551616", &u), ERANGE);
        assert_error(parse_uint64("", &u), EINVAL);
        assert_error(parse_uint64("-1", &u), EINVAL);
        assert_error(parse_uint64("+1", &u), EINVAL);
        assert_error(parse_uint64(" 1", &u), EINVAL);
        assert_error(parse_uint64("0x1", &u), EINVAL);
        assert_ok(parse_int64("-9223372036854775808", &i));
        assert_true(i == INT64_MIN);
        assert_error(parse_int64("-9223372036854775809", &i), ERANGE);
        assert_error(parse_int64("9223372036854775808", &i), ERANGE);
        assert_ok(parse_double("-1.25", &d));
        assert_true(d == -1.25);
        assert_error(parse_double("1e5", &d), EINVAL);
        assert_error(parse_double("nan", &d), EINVAL);
        assert_error(parse_double("1.", &d), EINVAL);
        assert_error(parse_double(".", &d), EINVAL);
        assert_ok(parse_bool("Yes", &b));
        assert_true(b);
        assert_ok(parse_bool("off", &b));
        assert_false(b);
        assert_error(parse_bool("maybe", &b), EINVAL);
        assert_ok(parse_cpus("0.5", &d));
        assert_true(d == 0.5);
        assert_error(parse_cpus("0", &d), ERANGE);
        assert_error(parse_cpus("4097", &d), ERANGE);
}

static void test_sizes(void **state) {
        static const struct {
                const char *text;
                uint64_t bytes;
        } good[] = { { "0", 0 },
                     { "4096", 4096 },
                     { "512M", 512 << 20 },
                     { "2G", UINT64_C(2) << 30 },
                     { "1.5G", 3 << 29 },
                     { "2GiB", UINT64_C(2) << 30 },
                     { "64kB", 64 << 10 },
                     { "10 K", 10 << 10 },
                     { "1T", UINT64_C(1) << 40 },
                     { "7B", 7 },
                     { "16383P", UINT64_C(16383) << 50 } };
        static const char *const bad[] = { "",      "M",   "-1",  "1X",   "1MM",   "1.5",
                                           "1..5M", "1M ", " 1M", "1Mi5", "1KiBB", "\x0b" };
        uint64_t bytes;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                assert_ok(parse_size(good[i].text, &bytes));
                assert_int_equal(bytes, good[i].bytes);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_size(bad[i], &bytes), EINVAL);
        assert_error(parse_size("16384P", &bytes), ERANGE);
        assert_error(parse_size("99999999999999999999", &bytes), ERANGE);
        assert_string_equal(FORMAT_BYTES(17), "17B");
        assert_string_equal(FORMAT_BYTES(512 << 20), "512.0M");
        assert_string_equal(FORMAT_BYTES(3 << 29), "1.5G");
        assert_string_equal(FORMAT_BYTES(1023), "1023B");
        assert_string_equal(FORMAT_BYTES(1048575), "1023.9K");
        assert_string_equal(FORMAT_BYTES(UINT64_MAX), "15.9E");
}

static void test_durations(void **state) {
        static const struct {
                const char *text;
                uint64_t usec;
        } good[] = { { "90s", 90 * USEC_PER_SEC },
                     { "8h", 8 * USEC_PER_HOUR },
                     { "1m30s", 90 * USEC_PER_SEC },
                     { "250ms", 250 * USEC_PER_MSEC },
                     { "2", 2 * USEC_PER_SEC },
                     { "0.5", USEC_PER_SEC / 2 },
                     { "1.5h", 90 * USEC_PER_MINUTE },
                     { "2 days", 2 * USEC_PER_DAY },
                     { "1h 30min", 90 * USEC_PER_MINUTE },
                     { "7us", 7 },
                     { "0", 0 } };
        static const char *const bad[] = { "", "s", "1x", "1m30", "-1", " 1s", "1s ", "1..5s", "1 2", "1S" };
        uint64_t usec;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                assert_ok(parse_duration_usec(good[i].text, &usec));
                assert_int_equal(usec, good[i].usec);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_error(parse_duration_usec(bad[i], &usec), EINVAL);
        assert_error(parse_duration_usec("101000d", &usec), ERANGE);
        assert_string_equal(FORMAT_DURATION(80), "80us");
        assert_string_equal(FORMAT_DURATION(2500), "2.5ms");
        assert_string_equal(FORMAT_DURATION(250 * USEC_PER_MSEC), "250ms");
        assert_string_equal(FORMAT_DURATION(2500 * USEC_PER_MSEC), "2.5s");
        assert_string_equal(FORMAT_DURATION(90 * USEC_PER_MINUTE), "1h 30min");
        assert_string_equal(FORMAT_DURATION(USEC_INFINITY), "infinity");
}

static void test_addresses(void **state) {
        static const char *const bad[] = {
                "",    ":1", "a:",  "a:99999", "a:x", "[::1",  "[]:1", "[::1]x",
                "a b", "-a", "a/b", "a:1:",    "a\n", "[a b]", "a:-1", "a:000001"
        };
        _cleanup_(freep) Address *list = NULL;
        char text[ADDRESS_STRING_SIZE], many[256] = "a";
        Address a;
        size_t n;

        assert_ok(parse_address("node1.example", 7878, &a));
        assert_string_equal(a.host, "node1.example");
        assert_int_equal(a.port, 7878);
        assert_ok(parse_address("10.0.0.2:80", 7878, &a));
        assert_string_equal(address_to_string(&a, text), "10.0.0.2:80");
        assert_ok(parse_address("[::1]:80", 7878, &a));
        assert_string_equal(a.host, "::1");
        assert_string_equal(address_to_string(&a, text), "[::1]:80");
        assert_ok(parse_address("fe80::1%eth0", 7878, &a));
        assert_string_equal(a.host, "fe80::1%eth0");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (parse_address(bad[i], 1, &a) >= 0)
                        fail_msg("accepted: %s", bad[i]);
        assert_ok(parse_address_list("clupy://a,b:1,[::1]:2/", 7878, &list, &n));
        assert_int_equal(n, 3);
        assert_string_equal(list[0].host, "a");
        assert_int_equal(list[1].port, 1);
        assert_int_equal(list[2].port, 2);
        list = mfree(list);
        assert_error(parse_address_list("clupy://", 7878, &list, &n), EINVAL);
        assert_error(parse_address_list("a,,b", 7878, &list, &n), EINVAL);
        assert_error(parse_address_list("http://a", 7878, &list, &n), EINVAL);
        for (int i = 0; i < ADDRESS_LIST_MAX; i++)
                strcat(many, ",a");
        assert_error(parse_address_list(many, 7878, &list, &n), ERANGE);
}

static void test_names(void **state) {
        char longest[66];

        memset(longest, 'a', 65);
        longest[65] = '\0';
        assert_true(name_is_valid("default-2", 32));
        assert_false(name_is_valid("", 32));
        assert_false(name_is_valid("Default", 32));
        assert_false(name_is_valid("../x", 32));
        assert_false(name_is_valid("abc", 2));
        assert_true(environment_name_is_valid("default"));
        assert_true(environment_name_is_valid("0123456789abcdef0123456789abcdef01234567"));
        assert_true(environment_name_is_valid("python-3.11"));
        assert_true(environment_name_is_valid("system-3.9"));
        assert_false(environment_name_is_valid(NULL));
        assert_false(environment_name_is_valid(""));
        assert_false(environment_name_is_valid("3.11"));
        assert_false(environment_name_is_valid("python-"));
        assert_false(environment_name_is_valid("python-3.11/.."));
        assert_false(environment_name_is_valid("python-3."));
        assert_false(environment_name_is_valid("system-.9"));
        assert_false(environment_name_is_valid("python-3.1111"));
        assert_true(node_name_is_valid("node-1.Example.org"));
        assert_false(node_name_is_valid(""));
        assert_false(node_name_is_valid(".a"));
        assert_false(node_name_is_valid("a..b"));
        assert_false(node_name_is_valid("-a"));
        assert_false(node_name_is_valid("a."));
        assert_false(node_name_is_valid("a/b"));
        assert_false(node_name_is_valid(longest));
        assert_true(device_path_is_valid("/dev/nvidia0"));
        assert_true(device_path_is_valid("/dev/dri/by-path/pci-0000:00:02.0-card"));
        assert_false(device_path_is_valid("/dev/"));
        assert_false(device_path_is_valid("/device/a"));
        assert_false(device_path_is_valid("/dev/a/"));
        assert_false(device_path_is_valid("/dev//a"));
        assert_false(device_path_is_valid("/dev/../a"));
        assert_false(device_path_is_valid("/dev/a/./b"));
        assert_false(device_path_is_valid("/dev/a\n"));
        assert_false(device_path_is_valid(
                "/dev/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")); /* 64 bytes */
        assert_true(owner_name_is_valid("Zoë Müller"));
        assert_false(owner_name_is_valid(""));
        assert_false(owner_name_is_valid(".."));
        assert_false(owner_name_is_valid("a/b"));
        assert_false(owner_name_is_valid("a\nb"));
        assert_false(owner_name_is_valid("\xff"));
        assert_false(owner_name_is_valid("a\xe2\x80\xae")); /* right-to-left override */
        assert_false(owner_name_is_valid(longest));
        assert_true(owner_name_is_valid(longest + 1));
}

static void test_utf8(void **state) {
        static const char *const bad[] = { "\x80",         "\xc0\x80",         "\xc3",
                                           "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80",
                                           "\xff" };
        _cleanup_(freep) char *shown = NULL;

        assert_true(utf8_is_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
        assert_false(utf8_is_valid("a\0b", 3));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(utf8_is_valid(bad[i], strlen(bad[i])));
        shown = text_for_message("a\nb\xff\xc3\xa9", 10);
        assert_string_equal(shown, "a?b?\xc3\xa9");
        shown = mfree(shown);
        shown = text_for_message("ab\xc3\xa9", 3);
        assert_string_equal(shown, "ab…");
        assert_int_equal(edit_distance("memroy", "memory"), 2);
        assert_int_equal(edit_distance("", "abc"), 3);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_numbers),   cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_durations), cmocka_unit_test(test_addresses),
                cmocka_unit_test(test_names),     cmocka_unit_test(test_utf8),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
