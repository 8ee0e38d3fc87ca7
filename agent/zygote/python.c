/* SPDX-License-Identifier: Apache-2.0 */
#include <Python.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build-config.h"
#include "fd-util.h"
#include "message-socket.h"
#include "zygote-python.h"

static PyObject *runtime; /* the module clupy._task */

/* To the launcher, which tells those whose tasks wait for this environment. */
static void words_send(const char *words) {
        const ZygoteReply reply = { .op = ZYGOTE_BROKEN };
        int fd = memfd_new_sealed("clupy-words", words, strlen(words));

        if (fd >= 0)
                (void) message_send(ZYGOTE_CONTROL_FD, &reply, sizeof(reply), &fd, 1);
        close_fd(fd);
}

static void exception_send(void) {
        PyObject *type, *value, *traceback;

        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        PyObject *text = value ? PyObject_Str(value) : NULL;
        const char *words = text ? PyUnicode_AsUTF8(text) : NULL;
        if (words)
                words_send(words);
        PyErr_Clear();
        Py_XDECREF(text);
        PyErr_Restore(type, value, traceback);
}

_Noreturn static void give_up(const char *what) {
        (void) fprintf(stderr, "clupy-zygote: %s\n", what);
        if (PyErr_Occurred()) {
                exception_send();
                PyErr_Print();
        } else
                words_send(what);
        (void) fflush(stderr);
        _exit(ZYGOTE_EXIT_ENVIRONMENT);
}

static void interpreter_start(const char *interpreter) {
        PyPreConfig before;
        PyConfig config;

        PyPreConfig_InitIsolatedConfig(&before);
        before.utf8_mode = 1; /* isolated in the C locale would be ASCII */
        PyStatus status = Py_PreInitialize(&before);
        if (PyStatus_Exception(status))
                give_up(status.err_msg ? status.err_msg : "Python cannot be initialised");

        PyConfig_InitIsolatedConfig(&config);
        config.install_signal_handlers = 0; /* the causes of ends stay true */
        config.write_bytecode = 0;
        status = PyConfig_SetBytesString(&config, &config.executable, interpreter);
        if (!PyStatus_Exception(status))
                status = Py_InitializeFromConfig(&config);
        PyConfig_Clear(&config);
        if (PyStatus_Exception(status))
                give_up(status.err_msg ? status.err_msg : "Python cannot be initialised");
}

/* Behind the standard library, before what the distribution packages: `import clupy` is always the node's.
 */
static void path_extend(void) {
        PyObject *path = PySys_GetObject("path"); /* borrowed */
        PyObject *folder = PyUnicode_FromString(CLUPY_PYTHON_DIR);
        Py_ssize_t at = 0;

        if (!path || !PyList_Check(path) || !folder)
                give_up("there is no sys.path");
        for (; at < PyList_GET_SIZE(path); at++) {
                const char *entry = PyUnicode_AsUTF8(PyList_GET_ITEM(path, at));
                if (entry && strstr(entry, "-packages"))
                        break;
        }
        PyErr_Clear();
        if (PyList_Insert(path, at, folder) < 0)
                give_up("sys.path cannot be extended");
        Py_DECREF(folder);
}

void python_start(const char *interpreter) {
        if (!interpreter)
                give_up("it was not told which interpreter to be");
        interpreter_start(interpreter);
        path_extend();
        runtime = PyImport_ImportModule("clupy._task");
        if (!runtime)
                give_up("the runtime of tasks cannot be imported");
        PyObject *nothing = PyObject_CallMethod(runtime, "prepare", NULL);
        if (!nothing)
                give_up("the environment cannot be prepared");
        Py_DECREF(nothing);
}

void python_before_fork(void) {
        PyOS_BeforeFork();
}

void python_after_fork_parent(void) {
        PyOS_AfterFork_Parent();
}

void python_after_fork_child(void) {
        PyOS_AfterFork_Child();
}

int python_rehearse(void) {
        PyObject *nothing = PyObject_CallMethod(runtime, "rehearse", NULL);

        if (!nothing) {
                PyErr_Print();
                return -EIO;
        }
        Py_DECREF(nothing);
        return 0;
}

/* print() must have reached the journal before the launcher knows of the result. */
static void streams_flush(void) {
        static const char *const names[] = { "stdout", "stderr" };

        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                PyObject *stream =
                        PySys_GetObject(names[i]); /* borrowed; the task may have put anything there */
                PyObject *nothing =
                        stream && stream != Py_None ? PyObject_CallMethod(stream, "flush", NULL) : NULL;
                Py_XDECREF(nothing);
                PyErr_Clear();
        }
        (void) fflush(NULL);
}

static uint32_t operation_of(int kind) {
        switch (kind) { /* VALUE, EXCEPTION, UNPICKLABLE, DISK of clupy._task */
        case 1:
                return TASK_RESULT;
        case 2:
                return TASK_EXCEPTION;
        case 3:
                return TASK_UNPICKLABLE;
        case 4:
                return TASK_DISK;
        default:
                return 0;
        }
}

int python_run(const ZygoteGo *go, int code, int args, TaskMessage *message, int *ret_memfd) {
        const char *detail;
        int kind, memfd, retry;

        PyObject *answer = PyObject_CallMethod(
                runtime, "run", "iii{s:s,s:I,s:s,s:s,s:s,s:s,s:I,s:s}", TASK_CONTROL_FD, code, args, "task",
                go->task, "attempt", (unsigned) go->attempt, "job", go->job, "owner", go->owner, "node",
                go->node, "unit", go->unit, "cpus", (unsigned) go->cpus, "variables", go->variables);
        if (!answer || !PyArg_ParseTuple(answer, "iiis", &kind, &memfd, &retry, &detail) ||
            operation_of(kind) == 0) {
                if (PyErr_Occurred())
                        PyErr_Print();
                streams_flush();
                return -EIO;
        }
        *message = (TaskMessage){ .op = operation_of(kind), .retry = retry ? 1 : 0 };
        (void) snprintf(message->detail, sizeof(message->detail), "%s", detail);
        *ret_memfd = memfd >= 0 ? memfd : -EBADF;
        streams_flush();
        return 0;
}
