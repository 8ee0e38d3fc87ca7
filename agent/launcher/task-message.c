/* SPDX-License-Identifier: Apache-2.0 */
#include "task-message.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>

#include "fd-util.h"

#define PROGRESS_MAX 1e15

bool task_progress_is_valid(double done, double total) {
        return isfinite(done) && isfinite(total) && fabs(done) <= PROGRESS_MAX &&
               fabs(total) <= PROGRESS_MAX;
}

int task_result_check(int fd, uint64_t memory_max, uint64_t *ret_size) {
        static const int wanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        uint64_t size;
        int seals = fcntl(fd, F_GET_SEALS), r;

        if (seals < 0)
                return -errno;
        if ((seals & wanted) != wanted)
                return -EPERM;
        r = memfd_check_sealed(fd, &size);
        if (r < 0)
                return r;
        if (size > memory_max)
                return -EFBIG;
        *ret_size = size;
        return 0;
}
