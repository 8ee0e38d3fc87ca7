/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The names of the daemon's objects, for headers that only point to each other. */
typedef struct Attempt Attempt;
typedef struct Batch Batch;
typedef struct Detached Detached;
typedef struct Environment Environment;
typedef struct Environments Environments;
typedef struct History History;
typedef struct HistoryEntry HistoryEntry;
typedef struct IndexPump IndexPump;
typedef struct Job Job;
typedef struct LogTail LogTail;
typedef struct Manager Manager;
typedef struct MasterBus MasterBus;
typedef struct MasterConfig MasterConfig;
typedef struct Node Node;
typedef struct Owner Owner;
typedef struct Peer Peer;
typedef struct Session Session;
typedef struct Stream Stream;
typedef struct Task Task;
