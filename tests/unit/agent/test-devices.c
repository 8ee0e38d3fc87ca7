/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "devices.h"
#include "launcher/device-set.h"

static char *gpus[] = { (char *) "/dev/gpu0", (char *) "/dev/gpu1", (char *) "/dev/gpu2", NULL };
static char *fpgas[] = { (char *) "/dev/fpga0", NULL };
static char *shared[] = { (char *) "/dev/gpuctl", NULL };
static ServerResource resources[] = {
        { .name = "gpu", .count = 3, .devices = gpus, .shared = shared, .variable = (char *) "GPUS" },
        { .name = "licence", .count = 4 },
        { .name = "fpga", .count = 1, .devices = fpgas, .variable = (char *) "FPGAS" },
};
static const ServerConfig config = { .resources = resources, .n_resources = ELEMENTSOF(resources) };

/* The launcher numbers them as it likes. */
static void tell(Devices *devices, uint32_t index, const char *path, int error) {
        LauncherEvent event = { .op = LAUNCHER_DEVICE, .error = error };

        event.device.index = index;
        snprintf(event.device.path, sizeof(event.device.path), "%s", path);
        devices_take(devices, &event);
}

static Devices *make(int error_of_last) {
        Devices *devices;

        assert_ok(devices_new(&config, &devices));
        devices_begin(devices);
        tell(devices, 100, "/dev/gpu0", 0);
        tell(devices, 3, "/dev/gpu1", 0);
        tell(devices, 4, "/dev/gpu2", error_of_last);
        tell(devices, 5, "/dev/gpuctl", 0);
        tell(devices, 6, "/dev/fpga0", 0);
        tell(devices, DEVICES_MAX, "/dev/fpga0", 0); /* not a number */
        return devices;
}

static int give(Devices *devices, const char *order, LauncherStart *start, LauncherDevices *held) {
        json_object *wanted = json_tokener_parse(order);
        char why[DEVICES_WHY_SIZE] = "";
        int r;

        *start = (LauncherStart){ 0 };
        *held = (LauncherDevices){ 0 };
        r = devices_give(devices, wanted, start, held, why);
        assert_int_equal(r < 0 && r != -EBADMSG, *why != '\0');
        json_object_put(wanted);
        return r;
}

static void test_given_and_given_back(void **state) {
        _cleanup_(devices_freep) Devices *devices = make(0);
        LauncherStart start;
        LauncherDevices first, second, third;

        assert_int_equal(devices_count(devices, 0), 3);
        assert_int_equal(devices_count(devices, 1), 4);
        assert_int_equal(give(devices, "{\"gpu\":2,\"licence\":1,\"fpga\":1}", &start, &first), 0);
        assert_string_equal(start.variables, "GPUS=0,1\nFPGAS=0\n");
        assert_true(device_set_has(&start.devices, 100) && device_set_has(&start.devices, 3));
        assert_true(device_set_has(&start.devices, 5) && device_set_has(&start.devices, 6));
        assert_int_equal(device_set_count(&start.devices), 4);
        assert_int_equal(device_set_count(&first), 3); /* what is shared is nobody's */
        json_object *report = json_object_new_object();
        assert_ok(devices_add_json(devices, &first, report));
        assert_string_equal(json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN),
                            "{\"devices\":{\"gpu\":2,\"fpga\":1}}");
        json_object_put(report);

        assert_int_equal(give(devices, "{\"gpu\":2}", &start, &second), -EBUSY);
        assert_true(device_set_is_empty(&start.devices) && device_set_is_empty(&second));
        assert_int_equal(give(devices, "{\"gpu\":1}", &start, &second), 0);
        assert_string_equal(start.variables, "GPUS=2\n");
        devices_give_back(devices, &first);
        assert_true(device_set_is_empty(&first));
        devices_give_back(devices, &first); /* once more: nothing */
        assert_int_equal(give(devices, "{\"gpu\":2}", &start, &third), 0);
        assert_string_equal(start.variables, "GPUS=0,1\n");
        assert_int_equal(give(devices, "{\"fpga\":1}", &start, &first), 0);
        assert_int_equal(give(devices, "{\"licence\":9}", &start, &first), 0); /* the master counts these */
        assert_string_equal(start.variables, "");
        assert_true(device_set_is_empty(&start.devices));
}

static void test_what_is_no_order(void **state) {
        static const char *const bad[] = { "{\"gpu\":0}", "{\"gpu\":-1}", "{\"gpu\":\"1\"}", "{\"gpu\":1.5}",
                                           "{\"gpu\":null}" };
        _cleanup_(devices_freep) Devices *devices = make(0);
        LauncherStart start;
        LauncherDevices held;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(give(devices, bad[i], &start, &held), -EBADMSG);
        assert_int_equal(give(devices, "{\"tape\":1}", &start, &held), -ENOENT);
        assert_int_equal(give(devices, "{\"gpu\":1,\"tape\":1}", &start, &held), -ENOENT);
        assert_int_equal(give(devices, "{\"gpu\":3}", &start, &held), 0); /* nothing was given before */
        devices_give_back(devices, &held);
        assert_ok(devices_give(devices, NULL, &start, &held, (char[DEVICES_WHY_SIZE]){ 0 }));
}

static void test_missing_ones(void **state) {
        _cleanup_(devices_freep) Devices *devices = make(-ENOENT);
        LauncherStart start;
        LauncherDevices held;

        assert_int_equal(devices_count(devices, 0), 2);
        devices_listed(devices);
        assert_int_equal(give(devices, "{\"gpu\":3}", &start, &held), -EBUSY);
        assert_int_equal(give(devices, "{\"gpu\":2}", &start, &held), 0);
        /* Another launcher, which knows none of them. */
        devices_begin(devices);
        assert_int_equal(devices_count(devices, 0), 0);
        devices_listed(devices);
}

static void test_told_by_the_launcher(void **state) {
        _cleanup_(devices_freep) Devices *devices = make(0);
        LauncherDevices has = { 0 }, held = { 0 };
        LauncherStart start;

        device_set_add(&has, 3);  /* gpu1 */
        device_set_add(&has, 5);  /* shared */
        device_set_add(&has, 70); /* nothing of ours */
        devices_held(devices, &has, &held);
        devices_held(devices, &has, &held); /* told again */
        assert_int_equal(device_set_count(&held), 1);
        assert_int_equal(give(devices, "{\"gpu\":2}", &start, &has), 0);
        assert_string_equal(start.variables, "GPUS=0,2\n");
        devices_give_back(devices, &held);
        assert_int_equal(give(devices, "{\"gpu\":1}", &start, &has), 0);
        assert_string_equal(start.variables, "GPUS=1\n");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_given_and_given_back),
                cmocka_unit_test(test_what_is_no_order),
                cmocka_unit_test(test_missing_ones),
                cmocka_unit_test(test_told_by_the_launcher),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
