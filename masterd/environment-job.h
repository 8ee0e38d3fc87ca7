/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>

#include "environment-node.h"
#include "types.h"

/* What a job says of where it runs: Python, packages, labels, resources. */

/* {"zone":"a"} as "zone=a" entries; {"gpu":2}. NULL: none. Return 0, -EBADMSG, -ENOMEM. */
int labels_read(json_object *object, char ***ret);
int resources_read(json_object *object, Resources *ret);
int resources_add_json(const Resources *resources, json_object *object, const char *key);

/* The keys python, requires, labels of a JOB. Returns 0, -EBADMSG, -ENOMEM. */
int environment_job_read(Session *session, Job *job, json_object *j);
/* Its key environment, which may have its client send wheels: for those that are not refused. If there is no
 * room for another one the job is marked so. Likewise. */
int environment_job_request(Session *session, Job *job, json_object *j);

/* The same kept with a detached task, and back. */
int environment_job_write(const Job *job, json_object *j);
int environment_job_restore(Job *job, json_object *j);
int environment_job_copy(const Job *from, Job *to);

/* Whether the node, with nothing on it, has what the job asks for but CPUs and memory. */
bool job_fits_node(const Job *job, const Node *node);

/* Some node (also one that is out of reach at present) has this Python. */
bool pythons_are_known(const Manager *m); /* of any node */
bool python_is_known(const Manager *m, const char *python);
/* All that nodes have, sorted, as a JSON array of strings. */
int pythons_add(const Manager *m, json_object *object, const char *key);

/* A number that is another one when why it waits for its environment is; 0: it does not. */
uint64_t environment_job_step(Manager *m, const Job *job);

/* Why no node there is will ever take it: a sentence from malloc; NULL: some would. */
char *environment_job_why_unfit(const Manager *m, const Job *job);
/* Why those that would cannot yet: NULL when it is not for want of its environment. */
char *environment_job_why(Manager *m, const Job *job);
