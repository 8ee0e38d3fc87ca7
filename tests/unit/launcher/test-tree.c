/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "build-tree.h"
#include "fd-util.h"
#include "macros.h"

/* A folder to fill, open, with its parent. */
typedef struct Place {
        char path[64];
        int parent, folder;
} Place;

static int setup(void **state) {
        Place *place = new0(Place);

        assert_non_null(place);
        (void) snprintf(place->path, sizeof(place->path), "/tmp/clupy-tree-XXXXXX");
        assert_non_null(mkdtemp(place->path));
        place->parent = open(place->path, O_RDONLY | O_DIRECTORY);
        assert_true(place->parent >= 0);
        assert_int_equal(mkdirat(place->parent, "all", 0700), 0);
        place->folder = openat(place->parent, "all", O_RDONLY | O_DIRECTORY);
        assert_true(place->folder >= 0);
        *state = place;
        return 0;
}

static int teardown(void **state) {
        Place *place = *state;

        close_fd(place->folder);
        assert_int_equal(tree_remove(place->parent, "all"), 0);
        close_fd(place->parent);
        assert_int_equal(rmdir(place->path), 0);
        free(place);
        return 0;
}

static void write_file(int folder, const char *name, mode_t mode, size_t size) {
        _cleanup_(close_fdp) int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL, 0600);

        assert_true(fd >= 0);
        assert_int_equal(posix_fallocate(fd, 0, (off_t) size), 0);
        assert_int_equal(fchmod(fd, mode), 0);
}

static mode_t mode_of(int folder, const char *name) {
        struct stat st;

        assert_int_equal(fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW), 0);
        return st.st_mode & 07777;
}

static int finish(const Place *place, TreeFigures *ret, char *what) {
        *ret = (TreeFigures){};
        what[0] = '\0';
        return tree_finish(place->folder, ret, what);
}

static void deep(int folder, unsigned depth) {
        int here = dup(folder);

        for (unsigned i = 0; i < depth; i++) {
                assert_int_equal(mkdirat(here, "d", 0700), 0);
                int next = openat(here, "d", O_RDONLY | O_DIRECTORY);
                assert_true(next >= 0);
                close_fd(here);
                here = next;
        }
        write_file(here, "f", 0600, 1);
        close_fd(here);
}

static void what_is_there_is_measured(void **state) {
        const Place *place = *state;
        TreeFigures limits = { MIB(100), 100 }, figures = {};

        write_file(place->folder, "a", 0600, MIB(1));
        assert_int_equal(mkdirat(place->folder, "b", 0), 0);
        assert_int_equal(symlinkat("/etc", place->folder, "c"), 0);
        assert_int_equal(tree_measure(place->folder, &limits, &figures), 0);
        assert_int_equal(figures.files, 3);
        assert_true(figures.bytes >= MIB(1) && figures.bytes < MIB(2));

        figures = (TreeFigures){};
        limits.files = 2;
        assert_int_equal(tree_measure(place->folder, &limits, &figures), -EDQUOT);
        figures = (TreeFigures){};
        limits = (TreeFigures){ MIB(1) - 1, 100 };
        assert_int_equal(tree_measure(place->folder, &limits, &figures), -EDQUOT);
}

static void what_is_finished_is_read_only(void **state) {
        const Place *place = *state;
        TreeFigures figures;
        char what[NAME_MAX + 1];

        write_file(place->folder, "plain", 0666, 1);
        write_file(place->folder, "program", 06777, 1);
        write_file(place->folder, "secret", 0, 1);
        assert_int_equal(mkdirat(place->folder, "folder", 0), 0);
        assert_int_equal(fchmodat(place->folder, "folder", 01777, 0), 0);
        assert_int_equal(symlinkat("/etc/passwd", place->folder, "link"), 0);
        assert_int_equal(linkat(place->folder, "plain", place->folder, "second", 0), 0);
        const mode_t before = mode_of(AT_FDCWD, "/etc/passwd");
        assert_int_equal(finish(place, &figures, what), 0);
        assert_int_equal(figures.files, 6);
        assert_int_equal(mode_of(place->folder, "plain"), 0444);
        assert_int_equal(mode_of(place->folder, "program"), 0555);
        assert_int_equal(mode_of(place->folder, "secret"), 0444);
        assert_int_equal(mode_of(place->folder, "folder"), 0755);
        assert_int_equal(mode_of(AT_FDCWD, "/etc/passwd"), before);
}

static void what_must_not_be_there_is_refused(void **state) {
        const Place *place = *state;
        TreeFigures figures;
        char what[NAME_MAX + 1];

        assert_int_equal(mkfifoat(place->folder, "pipe", 0600), 0);
        assert_int_equal(finish(place, &figures, what), -EPERM);
        assert_string_equal(what, "pipe");
        assert_int_equal(unlinkat(place->folder, "pipe", 0), 0);

        write_file(place->parent, "outside", 0600, 1);
        assert_int_equal(linkat(place->parent, "outside", place->folder, "inside", 0), 0);
        assert_int_equal(finish(place, &figures, what), -EPERM);
        assert_string_equal(what, "inside");
        assert_int_equal(unlinkat(place->parent, "outside", 0), 0);
        assert_int_equal(finish(place, &figures, what), 0);

        write_file(place->folder, ".clupy-environment", 0600, 1);
        assert_int_equal(finish(place, &figures, what), -EPERM);
        assert_string_equal(what, ".clupy-environment");
}

static void what_is_deep_is_refused_and_removed(void **state) {
        const Place *place = *state;
        const TreeFigures limits = { GIB(1), 1000000 };
        TreeFigures figures = {};
        char what[NAME_MAX + 1];

        deep(place->folder, 350);
        assert_int_equal(mkdirat(place->folder, "deep-1", 0700), 0); /* a name that removing would take */
        write_file(place->folder, "deep-2", 0, 1);
        assert_int_equal(tree_measure(place->folder, &limits, &figures), -ELOOP);
        assert_int_equal(finish(place, &figures, what), -ELOOP);
        assert_int_equal(tree_remove(place->folder, "d"), 0);
        assert_int_equal(faccessat(place->folder, "d", F_OK, AT_SYMLINK_NOFOLLOW), -1);
        deep(place->folder, 350); /* teardown removes it */
}

static void removing_follows_no_link(void **state) {
        const Place *place = *state;

        assert_int_equal(mkdirat(place->parent, "kept", 0700), 0);
        assert_int_equal(symlinkat("../kept", place->folder, "link"), 0);
        assert_int_equal(tree_remove(place->folder, "link"), 0);
        assert_int_equal(tree_remove(place->folder, "none"), 0);
        assert_int_equal(unlinkat(place->parent, "kept", AT_REMOVEDIR), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(what_is_there_is_measured, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_finished_is_read_only, setup, teardown),
                cmocka_unit_test_setup_teardown(what_must_not_be_there_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_deep_is_refused_and_removed, setup, teardown),
                cmocka_unit_test_setup_teardown(removing_follows_no_link, setup, teardown),
        };

        if (geteuid() != 0) /* files become root's */
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
