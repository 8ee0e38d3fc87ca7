/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "config.h"

typedef struct Settings {
        char *string, *path, *name;
        bool flag;
        unsigned number;
        uint64_t size, duration, large;
        double cpus, ratio;
        Address address;
        int choice;
        char **list, **map;
} Settings;

static const ConfigName choices[] = { { "task", 0 }, { "job", 1 }, { NULL, 0 } };

static const ConfigItem items[] = {
        { "listen", CONFIG_SCALAR, config_parse_string, offsetof(Settings, string), "a string", 1, 100 },
        { "path", CONFIG_SCALAR, config_parse_path, offsetof(Settings, path), "a path" },
        { "insecure", CONFIG_SCALAR, config_parse_bool, offsetof(Settings, flag), "true or false" },
        { "count", CONFIG_SCALAR, config_parse_unsigned, offsetof(Settings, number), "a number", 1, 10 },
        { "address", CONFIG_SCALAR, config_parse_address, offsetof(Settings, address), "an address" },
        { "masters", CONFIG_LIST, config_parse_strv, offsetof(Settings, list), "a list", 0, 5 },
        { "labels", CONFIG_MAP, config_parse_map, offsetof(Settings, map), "a map" },
        { "task.memory", CONFIG_SCALAR, config_parse_size, offsetof(Settings, size), "a size" },
        { "task.timeout", CONFIG_SCALAR, config_parse_duration, offsetof(Settings, duration), "a duration" },
        { "task.cpus", CONFIG_SCALAR, config_parse_cpus, offsetof(Settings, cpus), "CPUs" },
        { "task.a.b.ratio", CONFIG_SCALAR, config_parse_double, offsetof(Settings, ratio), "a number", 0,
          1 },
        { "task.a.large", CONFIG_SCALAR, config_parse_uint64, offsetof(Settings, large), "a number" },
        { "task.policy", CONFIG_SCALAR, config_parse_name, offsetof(Settings, name), "a name" },
        { "task.isolation", CONFIG_SCALAR, config_parse_enum, offsetof(Settings, choice), "task or job",
          .data = choices },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *message = NULL, *copy = memdup(data, size);
        Settings s = { .number = 5 };
        int r;

        CHECK(copy);
        r = config_load_text("fuzz.yaml", copy, size, items, ELEMENTSOF(items), &s, &message);
        free(copy);
        /* Every error has a message of one printable line, and only errors have one. */
        CHECK((r < 0) == (message != NULL));
        for (const char *p = message; p && *p; p++)
                CHECK((uint8_t) *p >= ' ');
        CHECK(!message || utf8_is_valid(message, strlen(message)));
        CHECK(s.number >= 1 && s.number <= 10);
        CHECK(strv_length(s.list) <= 5);
        CHECK(!s.path || s.path[0] == '/');
        free(message);
        free(s.string);
        free(s.path);
        free(s.name);
        strv_free(s.list);
        strv_free(s.map);
        return 0;
}
