/* SPDX-License-Identifier: Apache-2.0 */
/* `pki renew` on a machine that has no authority. */
#include <errno.h>

#include "pki.h"

int pki_renew_remotely(Ctl *ctl) {
        return pki_fail(ctl, -ENOENT, pki_folder(ctl), "ca.key");
}
