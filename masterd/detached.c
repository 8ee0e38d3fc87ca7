/* SPDX-License-Identifier: Apache-2.0 */
#include "detached.h"

#include <errno.h>

int detached_task_new(Task *task) {
        return -EOPNOTSUPP;
}
Detached *detached_free(Detached *d) {
        return NULL;
}
bool detached_keep(Task *task) {
        return false;
}
bool detached_task_ended(Task *task) {
        return false;
}
void detached_acknowledged(Task *task) {
}
int detached_attach(Task *task, Session *session) {
        return -EOPNOTSUPP;
}
int detached_load(Manager *m) {
        return 0;
}
