/* SPDX-License-Identifier: Apache-2.0 */
#include "epoch-store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "state-store.h"

static const char epoch_key[] = "epoch";

struct EpochStore {
        StateStore *files;
        char *masters; /* "host:port,host:port" */
};

/* IPv6 addresses are not put into brackets: it is only compared. */
static int masters_text(const Address *masters, size_t n_masters, char **ret) {
        _cleanup_(freep) char *text = strdup("");

        for (size_t i = 0; i < n_masters && text; i++) {
                char *longer = strformat("%s%s%s:%" PRIu16, text, i > 0 ? "," : "", masters[i].host,
                                         masters[i].port);
                free_and_replace(text, longer);
        }
        if (!text)
                return -ENOMEM;
        *ret = TAKE_PTR(text);
        return 0;
}

/* "12 master:7878". Returns 0, -EBADMSG. */
static int read_epoch(const char *value, const char *masters, uint64_t *ret) {
        const char *space = strchr(value, ' ');
        _cleanup_(freep) char *number = space ? strndup(value, (size_t) (space - value)) : NULL;

        if (!number || parse_uint64(number, ret) < 0)
                return -EBADMSG;
        if (!streq(space + 1, masters))
                *ret = 0; /* another cluster's */
        return 0;
}

EpochStore *epoch_store_close(EpochStore *store) {
        if (!store)
                return NULL;
        store->files = state_store_close(store->files);
        free(store->masters);
        free(store);
        return NULL;
}

int epoch_store_open(const char *directory, const Address *masters, size_t n_masters, EpochStore **ret,
                     uint64_t *ret_epoch) {
        _cleanup_(epoch_store_closep) EpochStore *store = new0(EpochStore);
        _cleanup_(freep) char *value = NULL;
        uint64_t epoch = 0;
        int r;

        if (!store)
                return -ENOMEM;
        r = masters_text(masters, n_masters, &store->masters);
        if (r >= 0)
                r = state_store_file_open(directory, &store->files);
        if (r < 0)
                return r;
        r = state_store_get(store->files, epoch_key, (void **) &value, NULL, NULL);
        if (r >= 0)
                r = read_epoch(value, store->masters, &epoch);
        if (r < 0 && r != -ENOENT)
                return r;
        *ret = TAKE_PTR(store);
        *ret_epoch = epoch;
        return 0;
}

int epoch_store_write(EpochStore *store, uint64_t epoch) {
        _cleanup_(freep) char *value = strformat("%" PRIu64 " %s", epoch, store->masters);

        return value ? state_store_set(store->files, epoch_key, value, strlen(value)) : -ENOMEM;
}
