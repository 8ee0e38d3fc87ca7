/* SPDX-License-Identifier: Apache-2.0 */
/* clupy-policyc: turns what administrators write (seccomp profiles in JSON, clupy.server.yaml) into what the
 * launcher, which is root and parses nothing, can take as it is: BPF programs and one fixed-size file of
 * settings. Runs once, before the launcher, and ends. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "build-config.h"
#include "filter.h"
#include "log.h"
#include "profile.h"
#include "settings.h"
#include "write-file.h"

#define OUTPUT_DIRECTORY "/run/clupy/seccomp"

enum { PROFILES_MAX = 256 };

typedef struct Options {
        const char *directories[2]; /* profiles; those in a later one win */
        const char *output, *settings, *config;
        char **check; /* --check: only look at these files */
} Options;

/* Profiles that were compiled; their files stay, all others in the output folder go. */
typedef struct Run {
        const Options *options;
        char **done;
        bool failed;
} Run;

static void warn_unknown(const Profile *profile, const char *path) {
        for (size_t i = 0; profile->unknown && profile->unknown[i]; i++)
                log_warning("%s: '%s' is no system call that this libseccomp knows: nothing allows it", path,
                            profile->unknown[i]);
}

/* Says what is wrong. The user's mistakes have a message, ours an errno. */
static int complain(int error, const char *message, const char *path) {
        if (message)
                log_error("%s", message);
        else
                log_error_errno(error, "%s: cannot be compiled", path);
        return error;
}

/* Checks a profile, and compiles it into the folder when there is one. */
static int profile_process(const char *path, const char *output) {
        _cleanup_(profile_freep) Profile *profile = NULL;
        _cleanup_(freep) char *message = NULL;
        int r;

        r = profile_load(path, &profile, &message);
        if (r < 0)
                return complain(r, message, path);
        warn_unknown(profile, path);
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++) {
                _cleanup_(freep) struct sock_filter *instructions = NULL;
                size_t n;

                r = filter_compile(profile, kind, &instructions, &n);
                if (r == -E2BIG) {
                        log_error("%s: expected fewer rules: the %s filter has more instructions than the "
                                  "kernel takes",
                                  path, filter_kind_to_string(kind));
                        return r;
                }
                if (r < 0)
                        return complain(r, NULL, path);
                if (!output)
                        continue;
                r = filter_write(output, profile->name, kind, instructions, n);
                if (r < 0)
                        return log_error_errno(r, "%s/%s.%s.bpf cannot be written", output, profile->name,
                                               filter_kind_to_string(kind));
                log_debug("%s: %s filter of %zu instructions", path, filter_kind_to_string(kind), n);
        }
        return 0;
}

static int is_profile(const struct dirent *entry) {
        return entry->d_name[0] != '.' && endswith(entry->d_name, ".json") != NULL;
}

static void entries_free(struct dirent **entries, int n) {
        for (int i = 0; i < n; i++)
                free(entries[i]);
        free(entries);
}

/* All profiles of one folder that no later folder replaces. A mistake in one keeps none of the others from
 * being compiled, but its own former filters go: what is in force has to be what is written. */
static int directory_process(Run *run, unsigned index) {
        const Options *o = run->options;
        struct dirent **entries = NULL;
        int n, r = 0;

        n = scandir(o->directories[index], &entries, is_profile, alphasort);
        if (n < 0)
                return errno == ENOENT ? 0
                                       : log_error_errno(errno, "%s: cannot be read", o->directories[index]);
        for (int i = 0; i < n && r >= 0; i++) {
                const char *file = entries[i]->d_name;
                _cleanup_(freep) char *path = strformat("%s/%s", o->directories[index], file);
                _cleanup_(freep) char *name = memdup_nul(file, strlen(file) - strlen(".json"));
                bool replaced = false;

                if (!path || !name)
                        r = log_oom();
                for (unsigned later = index + 1;
                     r >= 0 && later < ELEMENTSOF(o->directories) && o->directories[later] && !replaced;
                     later++) {
                        _cleanup_(freep) char *other = strformat("%s/%s", o->directories[later], file);

                        replaced = other && access(other, F_OK) == 0;
                }
                if (r < 0 || replaced)
                        continue;
                if (strv_length(run->done) >= PROFILES_MAX) {
                        r = -E2BIG;
                        log_error("%s: expected at most %d profiles", path, PROFILES_MAX);
                } else if (profile_process(path, o->output) < 0)
                        run->failed = true;
                else if (strv_extend(&run->done, name) < 0)
                        r = log_oom();
        }
        entries_free(entries, n);
        return r;
}

/* NAME.outer.bpf → whether NAME was compiled in this run. */
static bool is_current(const Run *run, const char *file) {
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++) {
                _cleanup_(freep) char *suffix = strformat(".%s.bpf", filter_kind_to_string(kind)),
                                      *name = NULL;
                const char *end = suffix ? endswith(file, suffix) : NULL;

                if (!end)
                        continue;
                name = memdup_nul(file, (size_t) (end - file));
                if (!name || strv_contains(run->done, name))
                        return true;
        }
        return false;
}

/* Removes filters of profiles that are gone or no longer good. */
static int output_sweep(const Run *run) {
        const char *output = run->options->output;
        struct dirent **entries = NULL;
        int n, r = 0;

        n = scandir(output, &entries, NULL, alphasort);
        if (n < 0)
                return log_error_errno(errno, "%s: cannot be read", output);
        for (int i = 0; i < n; i++) {
                const char *file = entries[i]->d_name;
                _cleanup_(freep) char *path = NULL;

                if (streq(file, ".") || streq(file, "..") || is_current(run, file))
                        continue;
                path = strformat("%s/%s", output, file);
                if (!path)
                        r = log_oom();
                else if (unlink(path) < 0)
                        r = log_error_errno(errno, "%s: cannot be removed", path);
        }
        entries_free(entries, n);
        return r;
}

/* The folders above as well: nothing else makes /run/clupy before the launcher runs. */
static int directory_make(const char *path) {
        _cleanup_(freep) char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return mkdir(copy, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static int profiles_compile(const Options *options) {
        Run run = { .options = options };
        int r;

        r = directory_make(options->output);
        if (r < 0)
                return log_error_errno(r, "%s: cannot be made", options->output);
        for (unsigned i = 0; i < ELEMENTSOF(options->directories) && options->directories[i] && r >= 0; i++)
                r = directory_process(&run, i);
        if (r >= 0)
                r = output_sweep(&run);
        if (r >= 0 && !run.failed && strv_length(run.done) == 0) {
                log_error("%s: expected at least one profile, default.json", options->directories[0]);
                run.failed = true;
        }
        strv_free(run.done);
        return r < 0 ? r : run.failed ? -EINVAL : 0;
}

/* Where tasks' ids must not be anybody else's. clupy.server.yaml's own reader looks at /etc/subuid. */
static int settings_check(const ServerConfig *config) {
        static const struct {
                const char *path;
                IdFileKind kind;
        } files[] = {
                { "/etc/passwd", ID_FILE_PASSWD },
                { "/etc/group", ID_FILE_PASSWD },
                { "/etc/subgid", ID_FILE_SUBID },
        };

        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                _cleanup_(freep) char *message = NULL;
                int r = settings_check_ids(files[i].path, files[i].kind, config->uid_start,
                                           config->uid_count, &message);

                if (r < 0) {
                        log_error("%s", message ? message : strerror(-r));
                        return r;
                }
        }
        return 0;
}

/* Without good settings there are none: the launcher does not start with former ones. */
static int settings_write(const Options *options) {
        ServerConfig config;
        LauncherSettings settings;
        _cleanup_(freep) char *message = NULL;
        int r;

        r = server_config_load(&(ServerConfigSources){ .explicit_path = options->config }, &config,
                               &message);
        if (r < 0)
                log_error("%s", message ? message : strerror(-r));
        else {
                r = settings_check(&config);
                if (r >= 0) {
                        r = settings_from_config(&config, &settings, &message);
                        if (r < 0)
                                log_error("%s", message ? message : strerror(-r));
                }
                server_config_done(&config);
        }
        if (r < 0) {
                (void) unlink(options->settings);
                return r;
        }
        r = write_file_atomic(options->settings, 0444, &settings, sizeof settings);
        return r < 0 ? log_error_errno(r, "%s: cannot be written", options->settings) : 0;
}

static int check_only(char *const *files) {
        int result = EXIT_SUCCESS;

        for (size_t i = 0; files[i]; i++) {
                if (profile_process(files[i], NULL) < 0)
                        result = EX_CONFIG;
                else
                        printf("%s: ok\n", files[i]);
        }
        return result;
}

static void help(void) {
        printf("Usage: clupy-policyc [OPTION…]\n"
               "Compiles the seccomp profiles of tasks, and takes out of clupy.server.yaml what "
               "clupy-launcher needs.\n\n"
               "  --check FILE       check a profile and say whether it is good; may be given more than "
               "once; writes nothing\n"
               "  --config FILE      read this after /etc/clupy/clupy.server.yaml\n"
               "  --profiles FOLDER  compile the *.json of this folder only\n"
               "  --output FOLDER    where the filters go (default: " OUTPUT_DIRECTORY ")\n"
               "  --settings FILE    where the launcher's settings go (default: " LAUNCHER_SETTINGS ")\n"
               "  --log-level LEVEL  error, warning, notice, info (default) or debug\n"
               "  --help             show this and exit\n"
               "  --version          show the version and exit\n\n"
               "Profiles are the *.json in %s and in /etc/clupy/seccomp, where one of the same name wins.\n"
               "Exit status: 0 done, 64 wrong usage, 78 a profile or the configuration is not good, 1 "
               "something else failed.\n"
               "See clupy-policyc(8).\n",
               CLUPY_POLICY_DIR);
}

/* Returns DAEMON-like: -1 to go on, else the exit status. */
static int parse_arguments(int argc, char *argv[], Options *o) {
        enum {
                OPTION_CHECK = 256,
                OPTION_CONFIG,
                OPTION_PROFILES,
                OPTION_OUTPUT,
                OPTION_SETTINGS,
                OPTION_LOG_LEVEL,
                OPTION_HELP,
                OPTION_VERSION
        };
        static const struct option options[] = {
                { "check", required_argument, NULL, OPTION_CHECK },
                { "config", required_argument, NULL, OPTION_CONFIG },
                { "profiles", required_argument, NULL, OPTION_PROFILES },
                { "output", required_argument, NULL, OPTION_OUTPUT },
                { "settings", required_argument, NULL, OPTION_SETTINGS },
                { "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
                { "help", no_argument, NULL, OPTION_HELP },
                { "version", no_argument, NULL, OPTION_VERSION },
                { 0 },
        };
        int c, level;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case OPTION_CHECK:
                        if (strv_extend(&o->check, optarg) < 0)
                                return log_oom(), EXIT_FAILURE;
                        break;
                case OPTION_CONFIG:
                        o->config = optarg;
                        break;
                case OPTION_PROFILES:
                        o->directories[0] = optarg;
                        o->directories[1] = NULL;
                        break;
                case OPTION_OUTPUT:
                        o->output = optarg;
                        break;
                case OPTION_SETTINGS:
                        o->settings = optarg;
                        break;
                case OPTION_LOG_LEVEL:
                        level = log_level_from_string(optarg);
                        if (level < 0) {
                                log_error("--log-level: expected error, warning, notice, info or debug, got "
                                          "'%s'",
                                          optarg);
                                return EX_USAGE;
                        }
                        log_set_level(level);
                        break;
                case 'h':
                case OPTION_HELP:
                        help();
                        return EXIT_SUCCESS;
                case OPTION_VERSION:
                        printf("clupy-policyc %s\n", CLUPY_VERSION);
                        return EXIT_SUCCESS;
                default:
                        return EX_USAGE;
                }
        if (optind < argc) {
                log_error("expected no operands, got '%s' (see --help)", argv[optind]);
                return EX_USAGE;
        }
        return -1;
}

int main(int argc, char *argv[]) {
        Options options = {
                .directories = { CLUPY_POLICY_DIR, "/etc/clupy/seccomp" },
                .output = OUTPUT_DIRECTORY,
                .settings = LAUNCHER_SETTINGS,
        };
        int r, s;

        log_open("clupy-policyc");
        r = parse_arguments(argc, argv, &options);
        if (r < 0 && options.check)
                r = check_only(options.check);
        strv_free(options.check);
        if (r >= 0)
                return r;

        umask(022);
        r = profiles_compile(&options);
        s = settings_write(&options);
        if (r >= 0 && s >= 0)
                return EXIT_SUCCESS;
        return (r == -EINVAL || r >= 0) && (s >= 0 || s == -EINVAL || s == -EADDRINUSE || s == -ERANGE)
                       ? EX_CONFIG
                       : EXIT_FAILURE;
}
