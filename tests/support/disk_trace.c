/* Records what a process does to a state file.  Loaded by LD_PRELOAD; the calls are passed on
 * unchanged.
 *
 * DISK_TRACE_OF    the absolute path of the state file.  Its -wal and -journal are recorded too;
 *                  its -shm is not: it is shared memory, which is rebuilt from the log
 * DISK_TRACE_TO    the file that records are appended to, by all processes
 *
 * A record is a struct record and `size` bytes of data.  Its kinds:
 *
 * C   a file was created; data: its name       B   a sync begins
 * U   a name was removed; data: the name       E   that sync has succeeded
 * W   data were written at `at`                A   data are about to be sent to the peer's port `at`
 * T   the file's size was set to `at`          M   a mark of the process, see disk_mark; data: text
 *
 * `file` is an inode number, 0 for the folder's entries; `at` of B and E is the number of the sync.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 8
#define SENT 32 /* bytes of an answer that are recorded */

struct __attribute__((packed)) record {
    char kind;
    uint64_t file, at, size;
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static const char *state;
static int trace = -1;
static struct stat folder, known[FILES]; /* st_ino is 0 in unused entries */
static _Atomic uint64_t syncs;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int same(const struct stat *a, const struct stat *b) {
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

static void keep(char kind, uint64_t file, uint64_t at, const void *data, uint64_t size) {
    struct record record = {kind, file, at, size};
    struct iovec parts[] = {{&record, sizeof record}, {(void *)data, size}};
    if (writev(trace, parts, 2) != (ssize_t)(sizeof record + size)) abort();
}

static int is_ours(const char *path) {
    size_t length = state ? strlen(state) : 0;
    if (!length || strncmp(path, state, length)) return 0;
    path += length;
    return !*path || !strcmp(path, "-wal") || !strcmp(path, "-journal");
}

/* The inode of a recorded file, or 0. */
static uint64_t file_of(int fd, struct stat *what) {
    if (trace < 0 || fstat(fd, what)) return 0;
    for (int n = 0; n < FILES; n++)
        if (known[n].st_ino && same(&known[n], what)) return what->st_ino;
    return 0;
}

static void learn(const struct stat *what) {
    for (int n = 0; n < FILES; n++)
        if (known[n].st_ino && same(&known[n], what)) return;
    for (int n = 0; n < FILES; n++)
        if (!known[n].st_ino) {
            known[n] = *what;
            return;
        }
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *to = getenv("DISK_TRACE_TO");
    state = getenv("DISK_TRACE_OF");
    if (!state || !to) return;
    char *copy = strdup(state);
    if (stat(dirname(copy), &folder)) abort();
    free(copy);
    trace = open(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (trace < 0) abort();
}

/* Called by name in the recorded process. */
void disk_mark(const char *text) {
    keep('M', 0, 0, text, strlen(text));
}

static void opened(int fd, const char *path, int existed) {
    struct stat what;
    const char *name = strrchr(path, '/') + 1;
    if (fd < 0 || fstat(fd, &what)) return;
    learn(&what);
    if (!existed) keep('C', what.st_ino, 0, name, strlen(name));
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (trace < 0 || !is_ours(path)) return real(path, flags, mode); \
        pthread_mutex_lock(&one_at_a_time); \
        int existed = !access(path, F_OK); \
        int fd = real(path, flags, mode); \
        opened(fd, path, existed); \
        pthread_mutex_unlock(&one_at_a_time); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int unlink(const char *path) {
    REAL(unlink);
    struct stat what;
    if (trace < 0 || !is_ours(path) || stat(path, &what)) return real(path);
    pthread_mutex_lock(&one_at_a_time);
    int failed = real(path);
    const char *name = strrchr(path, '/') + 1;
    if (!failed) keep('U', 0, 0, name, strlen(name));
    for (int n = 0; n < FILES; n++)
        if (!failed && same(&known[n], &what)) known[n].st_ino = 0;
    pthread_mutex_unlock(&one_at_a_time);
    return failed;
}

#define PWRITE(name, off) \
    ssize_t name(int fd, const void *data, size_t size, off at) { \
        REAL(name); \
        struct stat what; \
        uint64_t file = file_of(fd, &what); \
        if (!file) return real(fd, data, size, at); \
        pthread_mutex_lock(&one_at_a_time); \
        ssize_t written = real(fd, data, size, at); \
        if (written > 0) keep('W', file, at, data, written); \
        pthread_mutex_unlock(&one_at_a_time); \
        return written; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(name, off) \
    int name(int fd, off size) { \
        REAL(name); \
        struct stat what; \
        uint64_t file = file_of(fd, &what); \
        if (!file) return real(fd, size); \
        pthread_mutex_lock(&one_at_a_time); \
        int failed = real(fd, size); \
        if (!failed) keep('T', file, size, NULL, 0); \
        pthread_mutex_unlock(&one_at_a_time); \
        return failed; \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(name); \
        struct stat what = {0}; \
        uint64_t file = file_of(fd, &what), number = ++syncs; \
        if (trace < 0 || (!file && !same(&what, &folder))) return real(fd); \
        number += (uint64_t)getpid() << 32; \
        keep('B', file, number, NULL, 0); \
        int failed = real(fd); \
        if (!failed) keep('E', file, number, NULL, 0); \
        return failed; \
    }
SYNC(fsync)
SYNC(fdatasync)

ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL(send);
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    if (trace >= 0 && !getpeername(fd, (struct sockaddr *)&peer, &length) &&
        peer.sin_family == AF_INET)
        keep('A', 0, ntohs(peer.sin_port), data, size < SENT ? size : SENT);
    return real(fd, data, size, flags);
}
