/* gnuplot.c - one run of gnuplot (contract in gnuplot.h).
 *
 * posix_spawn with the error stream on a pipe. The pipe is read until its end, so that a talkative
 * child cannot block on it, and only the first bytes are kept. The end of the pipe does not prove
 * the end of the child: the status is then asked for until the limit. */
#include "report/gnuplot.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 300, POLL_MS = 50 };

typedef struct child {
    pid_t pid;
    int pipe; /* its error stream */
    char words[WORDS + 1];
    size_t n;
    int status;
    bool ended;
} child;

static int spawn(child *c, const zb_gnuplot *g, const char *dir, const char *script,
                 int write_end) {
    char path[4096];
    const char *search = getenv("PATH");
    snprintf(path, sizeof path, "PATH=%s", search ? search : "/usr/local/bin:/usr/bin:/bin");
    char *env[] = {path, "LC_ALL=C.UTF-8", NULL};
    char *argv[] = {"gnuplot", "-d", (char *)script, NULL}; /* -d: no settings of the user */
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addchdir_np(&actions, dir);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, write_end, 2);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    int code = posix_spawnp(&c->pid, g->program, &actions, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* Takes what the pipe holds; waits at most POLL_MS. */
static void listen_once(child *c) {
    struct pollfd p = {.fd = c->pipe, .events = POLLIN};
    if (c->pipe < 0) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        return;
    }
    if (poll(&p, 1, POLL_MS) <= 0) return;
    char chunk[1024];
    ssize_t n = read(c->pipe, chunk, sizeof chunk);
    if (n > 0) {
        size_t keep = (size_t)n < WORDS - c->n ? (size_t)n : WORDS - c->n;
        memcpy(c->words + c->n, chunk, keep);
        c->n += keep;
    } else if (n == 0 || errno != EINTR) {
        close(c->pipe);
        c->pipe = -1;
    }
}

/* One line: gnuplot shows the script's line and a caret before the reason. */
static void flatten(child *c) {
    size_t at = 0;
    for (size_t i = 0; i < c->n; i++) {
        bool space = (unsigned char)c->words[i] <= ' ' || c->words[i] == '^';
        if (space && (at == 0 || c->words[at - 1] == ' ')) continue;
        c->words[at++] = space ? ' ' : c->words[i];
    }
    c->words[at] = 0;
}

static zb_status follow(child *c, const zb_gnuplot *g, const char *script, zb_err *err) {
    double end = zb_seconds() + g->seconds;
    bool late = false, stopped = false;
    while (!c->ended && !late && !stopped) {
        listen_once(c);
        c->ended = waitpid(c->pid, &c->status, WNOHANG) == c->pid;
        late = zb_seconds() > end;
        stopped = zb_interrupted();
    }
    if (!c->ended) {
        kill(-c->pid, SIGKILL);
        waitpid(c->pid, &c->status, 0);
        if (stopped) return zb_fail(err, ZB_ERR_INTERRUPTED, "%s: interrupted", script);
        return zb_fail(err, ZB_ERR_INTERNAL, "%s: not finished after %g s", script, g->seconds);
    }
    for (int i = 0; i < 16 && c->pipe >= 0; i++) { /* its last words */
        struct pollfd p = {.fd = c->pipe, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0) break;
        listen_once(c);
    }
    if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0) return ZB_OK;
    flatten(c);
    return zb_fail(err, ZB_ERR_INTERNAL, "%s: %s ended with %s %d: %s", script, g->program,
                   WIFEXITED(c->status) ? "status" : "signal",
                   WIFEXITED(c->status) ? WEXITSTATUS(c->status) : WTERMSIG(c->status), c->words);
}

zb_status zb_gnuplot_run(const zb_gnuplot *g, const char *dir, const char *script, zb_err *err) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return zb_fail(err, ZB_ERR_IO, "%s: no pipe: %s", script, strerror(errno));
    child c = {.pipe = ends[0]};
    int code = spawn(&c, g, dir, script, ends[1]);
    close(ends[1]);
    zb_status s;
    if (code == ENOENT || code == EACCES)
        s = zb_fail(err, ZB_ERR_UNSUPPORTED, "cannot start %s: %s; install it for pictures",
                    g->program, strerror(code));
    else if (code)
        s = zb_fail(err, ZB_ERR_INTERNAL, "cannot start %s: %s", g->program, strerror(code));
    else
        s = follow(&c, g, script, err);
    if (c.pipe >= 0) close(c.pipe);
    return s;
}
