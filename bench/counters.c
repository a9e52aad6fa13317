/* Counts the syncs and writes of a process; for LD_PRELOAD.  The calls themselves are unchanged.
 *
 * bench_syncs      fsync and fdatasync calls that succeeded
 * bench_bytes      bytes that write and pwrite put into regular files
 * bench_covering   syncs that made something durable: those that began after an unsynced write
 * bench_covering_at  when the latest of these ended, in seconds of CLOCK_MONOTONIC
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TIMES 4096

_Atomic long long bench_syncs, bench_bytes, bench_covering;
double bench_covering_at[TIMES]; /* a ring buffer: number n is at n % TIMES */
static _Atomic int unsynced;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void synced(int had_written) {
    struct timespec now;
    bench_syncs++;
    if (had_written) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        bench_covering_at[bench_covering++ % TIMES] = now.tv_sec + now.tv_nsec * 1e-9;
    }
}

static ssize_t wrote(int fd, ssize_t bytes) {
    struct stat what;
    if (bytes > 0 && !fstat(fd, &what) && S_ISREG(what.st_mode)) {
        bench_bytes += bytes;
        unsynced = 1;
    }
    return bytes;
}

int fsync(int fd) {
    REAL(fsync);
    int had_written = __atomic_exchange_n((int *)&unsynced, 0, __ATOMIC_SEQ_CST);
    int failed = real(fd);
    if (!failed) synced(had_written);
    return failed;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    int had_written = __atomic_exchange_n((int *)&unsynced, 0, __ATOMIC_SEQ_CST);
    int failed = real(fd);
    if (!failed) synced(had_written);
    return failed;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return wrote(fd, real(fd, data, size));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return wrote(fd, real(fd, data, size, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return wrote(fd, real(fd, data, size, at));
}
