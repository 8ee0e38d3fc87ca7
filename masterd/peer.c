/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "account.h"
#include "build-config.h"
#include "client-link.h"
#include "environment-default.h"
#include "environment-job.h"
#include "environment-link.h"
#include "environments.h"
#include "frame.h"
#include "index-pump.h"
#include "json-util.h"
#include "listener.h"
#include "log.h"
#include "manager.h"
#include "node-link.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "session.h"
#include "stream.h"
#include "time-util.h"

enum { LIBRARIES_MAX = 5000 }; /* in a WELCOME */

static const char *const peer_role_table[_PEER_ROLE_MAX] = {
        [PEER_CLIENT] = "client",
        [PEER_AGENT] = "agent",
        [PEER_OPERATOR] = "operator",
        [PEER_INDEX] = "index",
};

DEFINE_NAME_TABLE(peer_role, PeerRole, peer_role_table);

static int on_frame(Connection *c, const Frame *frame, void *userdata);
static void on_closed(Connection *c, int error, const char *why, void *userdata);
static void on_drained(Connection *c, void *userdata);

const ConnectionHandlers PEER_HANDLERS = { .frame = on_frame, .closed = on_closed, .drained = on_drained };

/* What a UNIX socket knows of its other end. An account without a name stays without an owner: it is told so
 * when it says hello. Returns 0, -ENOMEM. */
static int peer_identify(Peer *peer) {
        const char *name;
        uid_t uid;

        if (listener_peer_uid(peer->connection, &uid) < 0)
                return 0;
        peer->local = true;
        peer->uid = uid;
        peer->admin = uid == 0;
        name = uid == 0 ? "root" : account_name(uid);
        if (!name || !owner_name_is_valid(name))
                return 0;
        peer->owner = strdup(name);
        return peer->owner ? 0 : -ENOMEM;
}

int peer_new(Manager *manager, Connection *connection, Peer **ret) {
        Peer *peer;
        int r;

        if (manager->n_peers >= MANAGER_CONNECTIONS_MAX)
                return -ENOSPC;
        peer = new0(Peer);
        if (!peer)
                return -ENOMEM;
        *peer = (Peer){ .manager = manager, .next_stream = 2 };
        r = hashmap_new(HASHMAP_U64, &peer->asked);
        if (r >= 0)
                r = hashmap_new(HASHMAP_U64, &peer->owned);
        if (r >= 0)
                r = hashmap_new(HASHMAP_U64, &peer->follows);
        peer->connection = connection_ref(connection);
        if (r >= 0)
                r = peer_identify(peer);
        if (r < 0) {
                hashmap_free(peer->asked);
                hashmap_free(peer->owned);
                hashmap_free(peer->follows);
                connection_unref(peer->connection);
                free(peer);
                return r;
        }
        connection_set_handlers(connection, &PEER_HANDLERS, peer);
        list_append(&manager->peers, &peer->link);
        manager->n_peers++;
        *ret = peer;
        return 0;
}

/* Off what it stood for, which goes on without it. */
static void peer_unhook(Peer *peer) {
        Manager *m = peer->manager;
        Session *session = TAKE_PTR(peer->session);
        Node *node = TAKE_PTR(peer->node);
        Follow *follow;

        HASHMAP_FOREACH(follow, peer->follows)
                follow_free(follow);
        if (session && session->peer == peer)
                session_disconnected(session);
        if (node && node->peer == peer)
                node_disconnected(node);
        peer->pump = index_pump_free(peer->pump);
        streams_peer_gone(&m->streams, peer);
        if (peer->role == PEER_CLIENT)
                m->n_clients--;
        if (peer->placed)
                m->n_places--;
        peer->placed = false;
        if (peer->share)
                peer->share->n_peers--;
        peer->share = owner_unref(peer->share);
        peer->role = PEER_UNKNOWN;
}

Peer *peer_free(Peer *peer) {
        if (!peer)
                return NULL;
        peer_unhook(peer);
        list_remove(&peer->link);
        peer->manager->n_peers--;
        manager_notify(peer->manager);
        connection_unref(peer->connection);
        hashmap_free(peer->asked);
        hashmap_free(peer->owned);
        hashmap_free(peer->follows);
        join_request_free(peer->join);
        free(peer->owner);
        free(peer->user);
        return mfree(peer);
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        Peer *peer = userdata;

        if (peer->node)
                log_notice("Node %s (%s): connection closed: %s", peer->node->name, connection_peer(c), why);
        else if (master_tls_is_refusal(error) && peer->role == PEER_UNKNOWN)
                master_tls_refused(peer->manager, c, why);
        else if (error < 0)
                /* Of strangers there may be thousands: they are counted. */
                log_full(peer->role == PEER_UNKNOWN ? LOG_DEBUG : LOG_INFO, "Connection of %s closed: %s",
                         connection_peer(c), why);
        peer_free(peer);
}

static void on_drained(Connection *c, void *userdata) {
        Peer *peer = userdata;

        if (peer->session) {
                peer->session->flush_due = true;
                manager_flush(peer->manager);
                manager_status_soon(peer->manager);
        }
        if (peer->pump)
                index_pump_drained(peer->pump);
        streams_peer_drained(&peer->manager->streams, peer);
}

void peer_refuse(Peer *peer, const char *code, const char *message, json_object *details) {
        _cleanup_(json_putp) json_object *json = details;

        if (!json && json_new_object(&json) < 0)
                return;
        (void) json_add_string(json, "error", code);
        (void) json_add_string(json, "message", message);
        (void) connection_send(peer->connection, FRAME_REFUSED, json, NULL, 0);
        connection_finish(peer->connection, 0, message);
}

bool peer_has_proof(const Peer *peer) {
        return peer->local || connection_identity(peer->connection);
}

void peer_refuse_not_allowed(Peer *peer, const char *who, const char *message) {
        const char *from = connection_peer(peer->connection);
        char account[32] = "", more[MASTER_TLS_MORE_SIZE] = "";

        /* A stranger could write as much as it likes into the journal. */
        if (!peer_has_proof(peer) && !master_tls_may_tell(peer->manager, peer->connection, more)) {
                peer_refuse(peer, "not-allowed", message, NULL);
                return;
        }
        if (peer->local)
                snprintf(account, sizeof(account), " (uid %u)", (unsigned) peer->uid);
        log_struct(LOG_WARNING,
                   log_field("MESSAGE=Refused %s at %s%s: %s%s", who ?: "somebody", from, account, message,
                             more),
                   log_field("MESSAGE_ID=%s", PEER_REFUSED_MESSAGE_ID),
                   log_field("CLUPY_OWNER=%s", strempty(who)), log_field("CLUPY_PEER=%s", from),
                   log_field("CLUPY_REASON=not-allowed")); /* as access_log_refusal() */
        peer_refuse(peer, "not-allowed", message, NULL);
}

void peer_close(Peer *peer, int error, const char *why) {
        connection_close(peer->connection, error, why);
}

void peer_evict(Peer *peer, const char *message) {
        /* Without unhooking session or node: they have moved on already, or do so next. */
        peer_unhook(peer);
        peer_refuse(peer, "evicted", message, NULL);
}

/* The hello */

/* "3.11" of "3.11.2". */
static bool same_python(const char *version) {
        size_t size = strlen(CLUPY_PYTHON_SERIES);

        return strncmp(version, CLUPY_PYTHON_SERIES, size) == 0 &&
               (version[size] == '.' || version[size] == '\0');
}

static bool check_protocol(Peer *peer, json_object *json) {
        _cleanup_(json_putp) json_object *details = NULL;
        json_object *range, *server;
        int64_t low, high;

        if (json_get_array(json, "protocol", 2, &range) < 0 || json_object_array_length(range) != 2 ||
            !json_object_is_type(json_object_array_get_idx(range, 0), json_type_int) ||
            !json_object_is_type(json_object_array_get_idx(range, 1), json_type_int)) {
                peer_refuse(peer, "bad-hello", "The hello has no protocol range", NULL);
                return false;
        }
        low = json_object_get_int64(json_object_array_get_idx(range, 0));
        high = json_object_get_int64(json_object_array_get_idx(range, 1));
        if (low <= FRAME_PROTOCOL_VERSION && high >= FRAME_PROTOCOL_VERSION)
                return true;
        if (json_new_object(&details) < 0 || json_add(details, "client", json_object_get(range)) < 0 ||
            json_add_new_array(details, "server", &server) < 0)
                return false;
        for (int i = 0; i < 2; i++)
                (void) json_append(server, json_object_new_int(FRAME_PROTOCOL_VERSION));
        peer_refuse(peer, "protocol",
                    "This master speaks protocol version 1, the other end does not: install the same "
                    "version of CluPy on both",
                    TAKE_PTR(details));
        return false;
}

/* "3.11, 3.12" */
static char *pythons_text(json_object *list) {
        char *text = strdup("");

        for (size_t i = 0; text && i < json_object_array_length(list); i++) {
                char *longer =
                        strformat("%s%s%s", text, i > 0 ? ", " : "",
                                  strempty(json_object_get_string(json_object_array_get_idx(list, i))));

                free(text);
                text = longer;
        }
        return text;
}

/* A client's, or the main one of a node that does not say which it has, against those of the nodes; as long
 * as there are none, against the one that this master was built with. */
static bool check_python(Peer *peer, const char *python) {
        const Manager *m = peer->manager;
        _cleanup_(json_putp) json_object *details = NULL;
        _cleanup_(freep) char *message = NULL, *list = NULL;
        char series[PYTHON_SERIES_SIZE];
        json_object *cluster;

        if (pythons_are_known(m) ? python_series(python, series) >= 0 && python_is_known(m, series)
                                 : same_python(python))
                return true;
        if (json_new_object(&details) < 0 || json_add_string(details, "client", python) < 0 ||
            json_add_string(details, "server", CLUPY_PYTHON_VERSION) < 0 ||
            pythons_add(m, details, "cluster") < 0 ||
            json_get_array(details, "cluster", NODE_PYTHONS_MAX * MANAGER_NODES_MAX, &cluster) < 0)
                return false;
        if (json_object_array_length(cluster) == 0)
                (void) json_append_string(cluster, CLUPY_PYTHON_SERIES);
        list = pythons_text(cluster);
        message =
                json_object_array_length(cluster) == 1 && streq_ptr(list, CLUPY_PYTHON_SERIES)
                        ? strformat("Python %s here and Python %s on the cluster cannot exchange code: use "
                                    "Python %s.x",
                                    python, CLUPY_PYTHON_VERSION, CLUPY_PYTHON_SERIES)
                        : strformat("Python %s here and Python %s on the cluster cannot exchange code: use "
                                    "one of the cluster's",
                                    python, strempty(list));
        log_notice("Refused %s: it has Python %s, the cluster %s", connection_peer(peer->connection), python,
                   CLUPY_PYTHON_VERSION);
        peer_refuse(peer, "version-mismatch", strempty(message), TAKE_PTR(details));
        return false;
}

static void send_welcome(Peer *peer, bool session_kept) {
        _cleanup_(json_putp) json_object *json = NULL;
        const MasterConfig *config = peer->manager->config;
        json_object *libraries = NULL;

        if (json_new_object(&json) < 0)
                return;
        (void) json_add_uint64(json, "protocol", FRAME_PROTOCOL_VERSION);
        (void) json_add_string(json, "software", CLUPY_VERSION);
        (void) json_add_string(json, "python", CLUPY_PYTHON_VERSION);
        (void) json_add_uint64(json, "epoch", peer->manager->epoch);
        (void) json_add_bool(json, "session_kept", session_kept);
        (void) json_add_uint64(json, "heartbeat_ms", 1000);
        (void) json_add_uint64(json, "lease_ms", config->lease / USEC_PER_MSEC);
        (void) json_add_uint64(json, "task_window", config->task_window);
        (void) json_add_bool(json, "insecure", !peer->local && !connection_is_secure(peer->connection));
        if (peer->session)
                libraries = environments_libraries(peer->manager, peer->session->python);
        if (libraries && json_object_object_length(libraries) <= LIBRARIES_MAX)
                (void) json_add(json, "libraries", json_object_get(libraries));
        (void) connection_send(peer->connection, FRAME_WELCOME, json, NULL, 0);
        connection_established(peer->connection);
        manager_notify(peer->manager);
}

/* Who the certificate says it is; with it a role. Where there is none it was no TLS, or nobody. Returns
 * false when the peer was refused. */
static bool check_certificate(Peer *peer, PeerRole role, json_object *json) {
        const Identity *identity = connection_identity(peer->connection);
        _cleanup_(freep) char *message = NULL;
        const char *name, *why;

        if (!connection_is_secure(peer->connection))
                return true;
        if (!identity) {
                peer_refuse_not_allowed(
                        peer, NULL,
                        "This master takes nobody without a certificate: have an administrator "
                        "make one with 'clupyctl pki issue'");
                return false;
        }
        /* Its last look may be long ago. */
        if (connection_check_peer(peer->connection, &why) < 0) {
                peer_refuse_not_allowed(peer, IDENTITY_STRING(identity), why);
                return false;
        }
        if (role == PEER_AGENT || role == PEER_INDEX) {
                if (json_get_string(json, "name", 64, &name) < 0)
                        name = "";
                if (identity->role == IDENTITY_AGENT && streq(identity->name, name))
                        return true;
                message = identity->role == IDENTITY_AGENT ? strformat("The certificate is that of node %s: "
                                                                       "no other can be served with it",
                                                                       identity->name)
                                                           : strformat("The certificate is that of %s: a "
                                                                       "node needs one of the role agent",
                                                                       IDENTITY_STRING(identity));
        } else if (identity->role == IDENTITY_USER && streq(identity->name, "root")) {
                /* Its calls would be those of root of this machine. */
                message = strdup("The certificate is that of a user called root, who has to be an "
                                 "administrator: clupyctl pki issue admin root");
        } else if (identity->role == IDENTITY_USER || identity->role == IDENTITY_ADMIN) {
                if (free_and_strdup(&peer->owner, identity->name) < 0) {
                        peer_close(peer, -ENOMEM, NULL);
                        return false;
                }
                peer->admin = identity->role == IDENTITY_ADMIN;
                return true;
        } else
                message =
                        strformat("The certificate is that of %s: calls need one of the role user or admin",
                                  IDENTITY_STRING(identity));
        peer_refuse_not_allowed(peer, IDENTITY_STRING(identity), strempty(message));
        return false;
}

/* Whose calls these are. The hello may leave it out where the transport knows, and may say nothing else
 * then. Returns false when the peer was refused. */
static bool check_user(Peer *peer, json_object *json) {
        _cleanup_(freep) char *message = NULL;
        AccessLimits access_limits;
        const char *user;

        if (peer->local && !peer->owner) {
                message = strformat(
                        "Your account (uid %u) has no name in /etc/passwd of the master's machine: "
                        "connect over TCP",
                        (unsigned) peer->uid);
                peer_refuse_not_allowed(peer, NULL, strempty(message));
                return false;
        }
        if (json_get_string_optional(json, "user", 64, peer->owner, &user) < 0 || !user ||
            !owner_name_is_valid(user)) {
                peer_refuse(peer, "bad-hello", "The hello of a client or an operator needs user", NULL);
                return false;
        }
        if (peer->owner && !streq(peer->owner, user)) {
                message = strformat("You are %s and cannot be %s: leave user= out", peer->owner, user);
                peer_refuse_not_allowed(peer, peer->owner, strempty(message));
                return false;
        }
        if (free_and_strdup(&peer->user, user) < 0) {
                peer_close(peer, -ENOMEM, NULL);
                return false;
        }
        /* Where nobody proves anything a name is all there is, and nobody is an administrator for it. */
        access_resolve(peer->manager->config->access, user, &access_limits);
        if (!access_limits.known && !peer->admin) {
                message =
                        strformat("%s is in no entry of the table `access` of clupy.master.yaml, and others "
                                  "may not use this cluster",
                                  user);
                peer_refuse_not_allowed(peer, user, strempty(message));
                return false;
        }
        return true;
}

/* Counts it among those whose hello is accepted: nobody takes all places, and the last ones are for those
 * without whom the cluster stands still, or cannot be set right. again: another connection of the same one
 * has just left its place to this one. Returns 1, 0 when it was refused, -ENOMEM. */
static int take_place(Peer *peer, PeerRole role, bool again) {
        _cleanup_(owner_unrefp) Owner *owner = NULL;
        _cleanup_(freep) char *message = NULL;
        Manager *m = peer->manager;
        bool preferred = role == PEER_AGENT || peer->admin;
        int r;

        if (!again && m->n_places >= MANAGER_PEERS_MAX - (preferred ? 0 : MANAGER_PEERS_RESERVED)) {
                peer_refuse(peer, "busy", "There are too many connections to the master", NULL);
                return 0;
        }
        if (role != PEER_AGENT) {
                r = owner_get(m, peer->user, &owner);
                if (r < 0)
                        return r;
                if (!again && !preferred && owner->n_peers >= MANAGER_PEERS_PER_OWNER) {
                        message = strformat("%s has %u connections to the master, and nobody may have more",
                                            peer->user, owner->n_peers);
                        peer_refuse(peer, "busy", strempty(message), NULL);
                        return 0;
                }
                owner->n_peers++;
                peer->share = TAKE_PTR(owner);
        }
        peer->placed = true;
        m->n_places++;
        return 1;
}

/* Whether there is room for one more session. Returns false when the peer was refused. */
static bool check_sessions(Peer *peer) {
        _cleanup_(freep) char *message = NULL;

        if (hashmap_size(peer->manager->sessions) >=
            MANAGER_SESSIONS_MAX - (peer->admin ? 0 : MANAGER_SESSIONS_RESERVED)) {
                peer_refuse(peer, "busy", "There are too many clients", NULL);
                return false;
        }
        if (peer->admin || peer->share->n_sessions < MANAGER_SESSIONS_PER_OWNER)
                return true;
        message = strformat("%s has %u clients, with those that the master keeps for a while after they "
                            "were lost, and nobody may have more",
                            peer->user, peer->share->n_sessions);
        peer_refuse(peer, "busy", strempty(message), NULL);
        return false;
}

static int hello_client(Peer *peer, json_object *json) {
        Manager *m = peer->manager;
        const char *python, *host;
        Session *session;
        bool kept, again;
        Id key;
        int r;

        if (json_get_string(json, "python", 64, &python) < 0 || json_get_id(json, "session", &key) < 0 ||
            id_is_null(key) || json_get_string_optional(json, "host", 255, NULL, &host) < 0) {
                peer_refuse(peer, "bad-hello", "A client's hello needs python, user and session", NULL);
                return 0;
        }
        if (!check_user(peer, json) || !check_python(peer, python))
                return 0;
        session = session_find(m, peer->user, key);
        kept = session != NULL;
        again = session && session->peer;
        if (again)
                peer_evict(session->peer, "A newer connection of the same client took over");
        r = take_place(peer, PEER_CLIENT, again);
        if (r <= 0)
                return r;
        if (!session) {
                if (!check_sessions(peer))
                        return 0;
                r = session_new(m, peer->user, key, &session);
                if (r < 0)
                        return r;
        }
        (void) json_get_int64_optional(json, "pid", 0, INT32_MAX, 0, &session->pid);
        free_and_strdup(&session->host, host);
        (void) python_series(python, session->python);
        environment_default_want(m, session->python);
        peer->role = PEER_CLIENT;
        peer->session = session;
        m->n_clients++;
        send_welcome(peer, kept);
        session_connected(session, peer);
        log_debug("Client %s at %s (%s)", peer->user, connection_peer(peer->connection),
                  kept ? "is back" : "is new");
        return 0;
}

static int hello_operator(Peer *peer, json_object *json) {
        int r;

        if (!check_user(peer, json))
                return 0;
        r = take_place(peer, PEER_OPERATOR, false);
        if (r <= 0)
                return r;
        peer->role = PEER_OPERATOR;
        send_welcome(peer, false);
        return 0;
}

static void node_read_hello(Node *node, json_object *json, double cpus, uint64_t memory, const char *python,
                            const char *software, const char *address) {
        json_object *defaults = NULL;
        uint64_t tasks_max = 512;
        double default_cpus = 1;

        node->mcpus = (uint32_t) (cpus * 1000 + 0.5);
        node->memory = memory;
        free_and_strdup(&node->python, python);
        free_and_strdup(&node->software, software);
        free_and_strdup(&node->address, address);
        node->default_memory = MIB(512);
        if (json_get_object_optional(json, "defaults", &defaults) >= 0 && defaults) {
                (void) json_get_uint64_optional(defaults, "memory", UINT64_MAX / 4, MIB(512),
                                                &node->default_memory);
                (void) json_get_double_optional(defaults, "cpus", 0.01, 4096, 1, &default_cpus);
                (void) json_get_uint64_optional(defaults, "tasks_max", 1 << 22, 512, &tasks_max);
        }
        node->default_mcpus = (uint32_t) (default_cpus * 1000 + 0.5);
        node->default_tasks_max = (uint32_t) tasks_max;
}

static int hello_agent(Peer *peer, json_object *json) {
        Manager *m = peer->manager;
        const char *python, *name, *software;
        json_object *pythons = NULL;
        Id boot_id, instance;
        uint64_t epoch, memory;
        double cpus;
        bool again;
        Node *node;
        int r;

        if (peer->local) {
                peer_refuse_not_allowed(
                        peer, peer->owner,
                        "A UNIX socket is for clients: an agent connects over TCP, also on the master's "
                        "own machine");
                return 0;
        }
        if (json_get_string(json, "python", 64, &python) < 0 ||
            json_get_string(json, "name", 64, &name) < 0 || !node_name_is_valid(name) ||
            json_get_id(json, "boot_id", &boot_id) < 0 || json_get_id(json, "instance", &instance) < 0 ||
            json_get_double(json, "cpus", 0.01, 4096, &cpus) < 0 ||
            json_get_uint64(json, "memory", UINT64_MAX / 4, &memory) < 0 ||
            json_get_uint64_optional(json, "epoch", UINT64_MAX / 2, 0, &epoch) < 0 ||
            json_get_string_optional(json, "software", 64, "", &software) < 0) {
                peer_refuse(peer, "bad-hello",
                            "An agent's hello needs python, name, boot_id, instance, cpus and memory", NULL);
                return 0;
        }
        if (json_get_array_optional(json, "pythons", NODE_PYTHONS_MAX, &pythons) < 0)
                return -EBADMSG;
        if (!pythons && !check_python(peer, python))
                return 0;
        if (epoch > m->epoch) {
                log_error("Node %s has obeyed a master of epoch %" PRIu64 ", this one has %" PRIu64
                          ": is another master running, or was the state directory replaced?",
                          name, epoch, m->epoch);
                peer_refuse(
                        peer, "stale",
                        "The agent has obeyed a newer master than this one; if that one is gone for good, "
                        "remove /var/lib/clupy-agent/epoch on the node and restart clupy-agent",
                        NULL);
                return 0;
        }
        node = hashmap_get(m->nodes, name);
        again = node && node->peer;
        if (again) {
                log_notice("Node %s: a newer connection from %s takes over from %s", name,
                           connection_peer(peer->connection), connection_peer(node->peer->connection));
                peer_evict(node->peer, "A newer connection of a node with this name took over");
        }
        r = take_place(peer, PEER_AGENT, again);
        if (r <= 0)
                return r;
        if (!node) {
                r = node_new(m, name, &node);
                if (r == -ENOSPC) {
                        peer_refuse(peer, "busy", "There are too many nodes", NULL);
                        return 0;
                }
                if (r < 0)
                        return r;
        }
        node_read_hello(node, json, cpus, memory, python, software, connection_peer_host(peer->connection));
        r = environment_link_hello(node, json, python);
        if (r < 0)
                return r;
        node_set_instance(node, boot_id, instance);
        peer->role = PEER_AGENT;
        peer->node = node;
        send_welcome(peer, false);
        node_connected(node, peer);
        log_info("Node %s at %s: %g CPUs, %s of memory", name, connection_peer(peer->connection), cpus,
                 FORMAT_BYTES(memory));
        return 0;
}

/* A build on a node that asks the package index. */
static int hello_index(Peer *peer, json_object *json) {
        Manager *m = peer->manager;
        const char *name, *build;
        Node *node;

        if (peer->local) {
                peer_refuse_not_allowed(peer, peer->owner, "The package index is for builds on nodes");
                return 0;
        }
        if (json_get_string(json, "name", 64, &name) < 0 || !node_name_is_valid(name) ||
            json_get_string_optional(json, "build", ENVIRONMENT_NAME_SIZE - 1, "", &build) < 0) {
                peer_refuse(peer, "bad-hello", "The hello of a build needs name", NULL);
                return 0;
        }
        node = hashmap_get(m->nodes, name);
        if (!node || !node->peer) {
                peer_refuse(peer, "not-allowed", "The agent of this node is not connected", NULL);
                return 0;
        }
        if (index_pump_count(node) >= INDEX_PUMPS_MAX) {
                peer_refuse(peer, "busy", "Too many builds of this node ask the package index", NULL);
                return 0;
        }
        peer->role = PEER_INDEX;
        send_welcome(peer, false);
        return index_pump_new(peer, node, &peer->pump);
}

static int peer_hello(Peer *peer, const Frame *frame) {
        const char *role_name;
        PeerRole role;

        if (frame->type == FRAME_JOIN || frame->type == FRAME_RENEW)
                return join_frame(peer, frame);
        if (frame->type != FRAME_HELLO || !frame->json)
                return -EPROTO;
        if (peer->manager->stopping) {
                peer_refuse(peer, "shutting-down", "The master is shutting down", NULL);
                return 0;
        }
        if (json_get_string(frame->json, "role", 16, &role_name) < 0 ||
            peer_role_from_string(role_name, &role) < 0) {
                peer_refuse(peer, "bad-hello", "The hello has no role of client, agent or operator", NULL);
                return 0;
        }
        if (!check_protocol(peer, frame->json) || !check_certificate(peer, role, frame->json))
                return 0;
        switch (role) {
        case PEER_CLIENT:
                return hello_client(peer, frame->json);
        case PEER_AGENT:
                return hello_agent(peer, frame->json);
        case PEER_INDEX:
                return hello_index(peer, frame->json);
        default:
                return hello_operator(peer, frame->json);
        }
}

/* A client that is told no reason would send the same again on its next connection, for ever. */
static int on_client_frame(Peer *peer, const Frame *frame) {
        _cleanup_(freep) char *message = NULL;
        int r = client_link_frame(peer, frame);

        if (r != -EBADMSG && r != -EPROTO)
                return r;
        message = strformat("The frame %s is not as the protocol says", frame_type_to_string(frame->type));
        log_info("Connection of %s: %s", connection_peer(peer->connection), strempty(message));
        peer_refuse(peer, "bad-frame", strempty(message), NULL);
        return 0;
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        Peer *peer = userdata;

        if (peer->role == PEER_UNKNOWN)
                return peer_hello(peer, frame);
        if (peer->role == PEER_INDEX)
                return index_pump_frame(peer, frame);
        /* Every type has a JSON part, if an empty one. */
        if (!frame->json)
                return frame->type == FRAME_GOODBYE && peer->role != PEER_UNKNOWN
                               ? client_link_frame(peer, frame)
                               : -EBADMSG;
        switch (frame->type) {
        case FRAME_FETCH:
                return peer->role == PEER_OPERATOR ? -EPROTO : stream_frame_fetch(peer, frame->json);
        case FRAME_DATA:
                return stream_frame_data(peer, frame);
        case FRAME_CREDIT:
                return stream_frame_credit(peer, frame->json);
        case FRAME_END:
                return stream_frame_end(peer, frame->json);
        default:
                return peer->role == PEER_AGENT ? node_link_frame(peer, frame)
                                                : on_client_frame(peer, frame);
        }
}
