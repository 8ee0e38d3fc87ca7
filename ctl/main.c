/* SPDX-License-Identifier: Apache-2.0 */
#include <locale.h>
#include <stdlib.h>

#include "build-config.h"
#include "ctl.h"
#include "log.h"

static void print_line(const char *what, const char *help) {
        size_t width = text_width(what);

        printf("  %s%*s %s\n", what, (int) (22 - MIN(width, (size_t) 22)), "", help);
}

static void print_options(const CtlOption *options, size_t n) {
        for (size_t i = 0; i < n; i++) {
                char name[64];

                snprintf(name, sizeof(name), "%c%c%s--%s%s%s", options[i].letter ? '-' : ' ',
                         options[i].letter ?: ' ', options[i].letter ? ", " : "  ", options[i].name,
                         options[i].argument ? " " : "", strempty(options[i].argument));
                print_line(name, options[i].help);
        }
}

static int print_help(const Ctl *ctl) {
        if (ctl->verb) {
                printf("clupyctl %s%s%s\n%s.\n", ctl->verb->name, isempty(ctl->verb->synopsis) ? "" : " ",
                       ctl->verb->synopsis, ctl->verb->help);
                if (ctl->verb->details)
                        printf("\n%s", ctl->verb->details);
                if (ctl->verb->n_options > 0) {
                        printf("\n");
                        print_options(ctl->verb->options, ctl->verb->n_options);
                }
        } else {
                printf("clupyctl [OPTION…] VERB …\nSee and control a CluPy cluster.\n\n");
                for (size_t i = 0; i < ctl_n_verbs; i++) {
                        char synopsis[64];

                        snprintf(synopsis, sizeof(synopsis), "%s %s", ctl_verbs[i]->name,
                                 ctl_verbs[i]->synopsis);
                        print_line(synopsis, ctl_verbs[i]->help);
                }
                printf("\n");
                print_options(ctl_global_options, ctl_n_global_options);
                printf("\nWithout --master and CLUPY_MASTER_URL it asks the master on this machine.\n"
                       "More: man clupyctl\n");
        }
        return CTL_OK;
}

int main(int argc, char *argv[]) {
        _cleanup_(freep) char *message = NULL;
        Ctl ctl = {};
        int r;

        setlocale(LC_CTYPE, "");
        log_open("clupyctl");
        if (argc > 2 && streq(argv[1], "__complete"))
                return ctl_complete(argc, argv);

        r = ctl_parse(&ctl, argc, argv, &message);
        ctl.terminal = terminal_probe(ctl.no_color);
        if (r < 0)
                return ctl_fail(&ctl, CTL_USAGE, "usage", "%s", message ?: "out of memory");
        if (ctl.help)
                return print_help(&ctl);
        if (ctl.version) {
                puts("clupyctl " CLUPY_VERSION);
                return CTL_OK;
        }
        r = ctl.verb->run(&ctl);
        ctl.transport = transport_free(ctl.transport);
        for (size_t i = 0; i < ELEMENTSOF(ctl.joined); i++)
                ctl.joined[i] = mfree(ctl.joined[i]);
        if (fflush(stdout) != 0 && r == CTL_OK)
                return ctl_fail(&ctl, CTL_FAILED, "failed", "standard output: %m");
        return r;
}
