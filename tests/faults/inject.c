/* Counts every call of libc that writes below one folder, and makes the n-th of them fail, or kills the process there.
 *
 * Loaded with LD_PRELOAD, so that it sees Python, DuckDB, Arrow, faiss and torch alike. Off until `inject_arm`.
 * What libc calls within itself is not seen: of streams (FILE) the calls of fopen and fwrite count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, FULL, ONCE, KILL };
enum { GO, FAIL, SHORT };

static char root[PATH_MAX];
static size_t root_length;
static int mode = OFF, number = EIO, log_fd = -1;
static long target;
static atomic_long counter;
static atomic_int is_full;

/* From now on: `how` is COUNT, FULL (from the n-th call on nothing new has room), ONCE (the n-th call fails with
 * `error`) or KILL. Each call is written to the descriptor `log`, if it is one. */
void inject_arm(const char *folder, int how, long n, int error, int log) {
    mode = OFF;
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    target = n;
    number = error;
    log_fd = log;
    atomic_store(&counter, 0);
    atomic_store(&is_full, 0);
    mode = how;
}

long inject_disarm(void) {
    mode = OFF;
    return atomic_load(&counter);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, out, PATH_MAX - 1);
    out[length > 0 ? length : 0] = 0;
}

static void path_at(int folder, const char *path, char *out) {
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    char base[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
    } else {
        path_of_fd(folder, base);
    }
    size_t length = strlen(base);
    if (length + strlen(path) + 2 > PATH_MAX) {
        out[0] = 0;
        return;
    }
    memcpy(out, base, length);
    out[length] = '/';
    strcpy(out + length + 1, path);
}

/* The folder itself counts too: the names in it are synced by it. */
static int is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 || (strlen(path) == root_length - 1 && strncmp(path, root, root_length - 1) == 0);
}

static int exists(const char *path) { return syscall(SYS_access, path, F_OK) == 0; }

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* What becomes of a call. `bytes` is what it would write; `takes_room` whether a full disk refuses it. */
static int decide(const char *call, const char *path, const char *other, size_t bytes, int takes_room) {
    if (mode == OFF || !is_below(path)) return GO;
    long n = atomic_fetch_add(&counter, 1) + 1;
    if (log_fd >= 0) {
        char line[3 * PATH_MAX];
        int length = snprintf(line, sizeof line, "%ld\t%s\t%d\t%s\t%s\n", n, call, takes_room, path, other);
        if (length > 0 && (size_t)length < sizeof line) syscall(SYS_write, log_fd, line, (size_t)length);
    }
    if (mode == FULL) {
        if (n >= target && takes_room) {
            int is_first = !atomic_exchange(&is_full, 1);
            number = ENOSPC;
            return is_first && bytes > 1 ? SHORT : FAIL;
        }
        return GO;
    }
    if (n != target) return GO;
    if (mode == ONCE) return FAIL;
    if (mode == KILL) {
        if (bytes > 1) return SHORT;
        die();
    }
    return GO;
}

static void after_short(void) {
    if (mode == KILL) die();
}

#define ON_PATH(call, path, room) \
    if (mode != OFF) { \
        char full[PATH_MAX]; \
        path_at(AT_FDCWD, path, full); \
        if (decide(call, full, "", 0, room) == FAIL) return errno = number, -1; \
    }

#define ON_PATH_AT(call, folder, path, room) \
    if (mode != OFF) { \
        char full[PATH_MAX]; \
        path_at(folder, path, full); \
        if (decide(call, full, "", 0, room) == FAIL) return errno = number, -1; \
    }

#define ON_FD(call, fd, room) \
    if (mode != OFF) { \
        char full[PATH_MAX]; \
        path_of_fd(fd, full); \
        if (decide(call, full, "", 0, room) == FAIL) return errno = number, -1; \
    }

/* Opening. */

static int opens(int folder, const char *path, int flags) {
    if (mode == OFF || !((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC))) return GO;
    char full[PATH_MAX];
    path_at(folder, path, full);
    int is_new = (flags & O_CREAT) && !exists(full);
    return decide(is_new ? "create" : flags & O_TRUNC ? "truncate" : "open", full, "", 0, is_new);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t permissions = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (opens(AT_FDCWD, path, flags) == FAIL) return errno = number, -1; \
        return real(path, flags, permissions); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t permissions = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (opens(folder, path, flags) == FAIL) return errno = number, -1; \
        return real(folder, path, flags, permissions); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static int stream_flags(const char *how) {
    if (how[0] == 'w') return O_WRONLY | O_CREAT | O_TRUNC;
    if (how[0] == 'a') return O_WRONLY | O_CREAT;
    return strchr(how, '+') ? O_RDWR : O_RDONLY;
}

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(name); \
        if (opens(AT_FDCWD, path, stream_flags(how)) == FAIL) return errno = number, NULL; \
        return real(path, how); \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Writing. */

static int writes(const char *call, int fd, size_t bytes) {
    if (mode == OFF) return GO;
    char full[PATH_MAX];
    path_of_fd(fd, full);
    return decide(call, full, "", bytes, 1);
}

ssize_t write(int fd, const void *data, size_t bytes) {
    REAL(write);
    int what = writes("write", fd, bytes);
    if (what == FAIL) return errno = number, -1;
    ssize_t written = real(fd, data, what == SHORT ? bytes / 2 : bytes);
    if (what == SHORT) after_short();
    return written;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t bytes, offset_type offset) { \
        REAL(name); \
        int what = writes("write", fd, bytes); \
        if (what == FAIL) return errno = number, -1; \
        ssize_t written = real(fd, data, what == SHORT ? bytes / 2 : bytes, offset); \
        if (what == SHORT) after_short(); \
        return written; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    int what = writes("write", fd, count > 0 ? 2 : 0);
    if (what == FAIL) return errno = number, -1;
    ssize_t written = real(fd, parts, what == SHORT && count > 1 ? count / 2 : count);
    if (what == SHORT) after_short();
    return written;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    REAL(fwrite);
    int what = writes("write", fileno(stream), size * count);
    if (what == FAIL) return errno = number, 0;
    if (what == SHORT) {
        size_t written = real(data, size, count / 2, stream);
        fflush(stream);
        after_short();
        return errno = ENOSPC, written;
    }
    return real(data, size, count, stream);
}

#define SENDFILE(name, offset_type) \
    ssize_t name(int out, int in, offset_type *offset, size_t bytes) { \
        static ssize_t (*real)(int, int, offset_type *, size_t); \
        if (!real) real = (ssize_t(*)(int, int, offset_type *, size_t))dlsym(RTLD_NEXT, #name); \
        int what = writes("write", out, bytes); \
        if (what == FAIL) return errno = number, -1; \
        ssize_t written = real(out, in, offset, what == SHORT ? 7 : bytes); \
        if (what == SHORT) after_short(); \
        return written; \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t bytes, unsigned flags) {
    REAL(copy_file_range);
    int what = writes("write", out, bytes);
    if (what == FAIL) return errno = number, -1;
    ssize_t written = real(in, in_offset, out, out_offset, what == SHORT ? 7 : bytes, flags);
    if (what == SHORT) after_short();
    return written;
}

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type length) { \
        REAL(name); \
        ON_FD("truncate", fd, 0) \
        return real(fd, length); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset_type) \
    int name(int fd, offset_type offset, offset_type length) { \
        REAL(name); \
        if (writes("allocate", fd, 0) == FAIL) return number; /* returned, not in errno */ \
        return real(fd, offset, length); \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

int fallocate(int fd, int how, off_t offset, off_t length) {
    REAL(fallocate);
    ON_FD("allocate", fd, 1)
    return real(fd, how, offset, length);
}

/* To disk. */

int fsync(int fd) {
    REAL(fsync);
    ON_FD("fsync", fd, 0)
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    ON_FD("fsync", fd, 0)
    return real(fd);
}

/* Names. */

static int renames(int old_folder, const char *old, int new_folder, const char *new) {
    if (mode == OFF) return GO;
    char from[PATH_MAX], to[PATH_MAX];
    path_at(old_folder, old, from);
    path_at(new_folder, new, to);
    return is_below(from) ? decide("rename", from, to, 0, 0) : decide("rename", to, from, 0, 0);
}

int rename(const char *old, const char *new) {
    REAL(rename);
    if (renames(AT_FDCWD, old, AT_FDCWD, new) == FAIL) return errno = number, -1;
    return real(old, new);
}

int renameat(int old_folder, const char *old, int new_folder, const char *new) {
    REAL(renameat);
    if (renames(old_folder, old, new_folder, new) == FAIL) return errno = number, -1;
    return real(old_folder, old, new_folder, new);
}

int renameat2(int old_folder, const char *old, int new_folder, const char *new, unsigned flags) {
    REAL(renameat2);
    if (renames(old_folder, old, new_folder, new) == FAIL) return errno = number, -1;
    return real(old_folder, old, new_folder, new, flags);
}

int mkdirat(int folder, const char *path, mode_t permissions) {
    REAL(mkdirat);
    if (mode != OFF) {
        char full[PATH_MAX];
        path_at(folder, path, full);
        if (!exists(full) && decide("mkdir", full, "", 0, 1) == FAIL) return errno = number, -1;
    }
    return real(folder, path, permissions);
}

int mkdir(const char *path, mode_t permissions) { return mkdirat(AT_FDCWD, path, permissions); }

int rmdir(const char *path) {
    REAL(rmdir);
    ON_PATH("rmdir", path, 0)
    return real(path);
}

int unlink(const char *path) {
    REAL(unlink);
    ON_PATH("unlink", path, 0)
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    ON_PATH_AT(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path, 0)
    return real(folder, path, flags);
}

int symlinkat(const char *to, int folder, const char *path) {
    REAL(symlinkat);
    if (mode != OFF) {
        char full[PATH_MAX];
        path_at(folder, path, full);
        if (decide("symlink", full, to, 0, 1) == FAIL) return errno = number, -1;
    }
    return real(to, folder, path);
}

int symlink(const char *to, const char *path) { return symlinkat(to, AT_FDCWD, path); }

int link(const char *old, const char *path) {
    REAL(link);
    ON_PATH("link", path, 1)
    return real(old, path);
}

int linkat(int old_folder, const char *old, int folder, const char *path, int flags) {
    REAL(linkat);
    ON_PATH_AT("link", folder, path, 1)
    return real(old_folder, old, folder, path, flags);
}

int chmod(const char *path, mode_t permissions) {
    REAL(chmod);
    ON_PATH("chmod", path, 0)
    return real(path, permissions);
}

int fchmod(int fd, mode_t permissions) {
    REAL(fchmod);
    ON_FD("chmod", fd, 0)
    return real(fd, permissions);
}

int fchmodat(int folder, const char *path, mode_t permissions, int flags) {
    REAL(fchmodat);
    ON_PATH_AT("chmod", folder, path, 0)
    return real(folder, path, permissions, flags);
}
