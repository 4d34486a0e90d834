/* A disk that fails, for one process, by LD_PRELOAD: power cuts and errors.
 *
 *     cc -O2 -shared -fPIC -o powercut.so powercut.c -ldl -lpthread
 *
 * It sees what goes through the C library: all of Rust's standard library, sled, and rustix with its
 * feature `use-libc`. What writes past it (a shared mapping, copy_file_range) ends the process with
 * a message and code 99, so that nothing is tested that is not seen.
 *
 * POWERCUT_DIR      The directory under test, with everything below it. Without it nothing happens.
 *
 * Power cuts:
 *
 * POWERCUT_SHADOW   A directory. The library keeps there what a power cut at this moment would leave
 *                   in the worst case. Whoever kills the process puts that in place of POWERCUT_DIR
 *                   and empties the shadow (`faults/power.rs`). Where the shadow is not empty the
 *                   library takes it up: a process may be restarted without a cut.
 *     N             of file N the bytes that an fsync or fdatasync made durable, with its size then
 *     names         the entries of POWERCUT_DIR at its last fsync: "N NAME" for files, "dN NAME" for
 *                   directories, one a line
 *     names.N       the same for directory N
 *     journal       which files there are and what of them was written since their last sync; see
 *                   shadow.h. With it a cut can leave some of that, for instance a torn write.
 * POWERCUT_SWALLOW  `fdatasync`, or `fsync`, answers every such call without doing it: a test that
 *                   cannot tell the difference tests nothing.
 *
 * Neither sync_file_range nor a close nor a rename makes anything durable. While the shadow is kept
 * the disk's own sync is left out: only the shadow counts. A sync that fails (below) loses what it
 * was to write: as in Linux, a later sync that succeeds does not bring it back.
 *
 * Errors:
 *
 * POWERCUT_CONTROL  A file of rules, one a line, read again whenever another file is put in its place
 *                   (write a new one and rename it); no file is no rules. The first rule that matches
 *                   a call decides. Each rule's first hit is noted as a line in CONTROL.met.
 *     OPERATIONS PATTERN EFFECT... [after=N] [count=N] [chance=PERCENT]
 *         OPERATIONS  of write, sync, allocate, create, truncate, rename, remove, space, with
 *                     commas; grow = write,allocate,create; modify = all but space, and opening for
 *                     writing
 *         PATTERN     as of a shell, against the path below POWERCUT_DIR; `*` crosses `/`
 *         EFFECT      EIO, ENOSPC, EROFS or EDQUOT: the call fails so, and does nothing. The first
 *                     write that a rule with ENOSPC meets is cut short instead, as on a full disk
 *                     delay=MS: the call takes so much longer
 *                     free=BYTES: with `space`, what statvfs tells is free
 *         after, count, chance: the first N calls pass; only N calls are hit; so many in a hundred
 *     for example: sync log/[0-9]* EIO count=1
 * POWERCUT_SEED     decides what `chance` decides; 0 where it is not given.
 */
#include "files.h"
#include "rules.h"
#include "shadow.h"
#include <sys/mman.h>
#include <sys/statvfs.h>

static int swallow_fsync, swallow_fdatasync;

__attribute__((constructor)) static void start(void) {
    find_symbols();
    const char *watch = getenv("POWERCUT_DIR"), *into = getenv("POWERCUT_SHADOW");
    const char *rules_in = getenv("POWERCUT_CONTROL"), *seed = getenv("POWERCUT_SEED");
    const char *swallowed = getenv("POWERCUT_SWALLOW");
    if (!watch) return;
    if (!realpath(watch, dir)) give_up(watch);
    if (snprintf(dir_given, PATH_MAX, "%s", watch) >= PATH_MAX) give_up(watch);
    swallow_fsync = swallowed && strcmp(swallowed, "fsync") == 0;
    swallow_fdatasync = swallowed && strcmp(swallowed, "fdatasync") == 0;
    fault_random = seed ? strtoull(seed, NULL, 10) : 0;
    if (rules_in) {
        if (snprintf(control, PATH_MAX, "%s", rules_in) >= PATH_MAX) give_up(rules_in);
        snprintf(met_path, sizeof met_path, "%s.met", control);
    }
    if (into) start_shadow(into);
}

static int failing(int error) {
    errno = error;
    return -1;
}

/* Writes. */

struct target {
    enum kind kind;
    ino_t inode;
    int error, cut_short;
};

static struct target target_of(int fd) {
    struct stat stat;
    struct target target = {0};
    char path[PATH_MAX];
    find_symbols();
    target.kind = kind_of(fd, &stat, path);
    if (target.kind != FILE_OF_OURS) return target;
    target.inode = stat.st_ino;
    target.error = fault(WRITE, relative(path), &target.cut_short);
    if (target.error != ENOSPC) target.cut_short = 0;
    return target;
}

/* How much of a write is done: a disk that fills up takes a part of the last one. */
static size_t taken(const struct target *target, size_t count) {
    return target->cut_short ? count / 2 : count;
}

static int refused(const struct target *target, size_t count) {
    return target->error && !(target->cut_short && count > 1);
}

/* The write is done under the lock, so that no sync of another thread takes a part of it. */
static void begin(const struct target *target) {
    if (target->kind == FILE_OF_OURS) pthread_mutex_lock(&lock);
}

static ssize_t end(const struct target *target, off_t offset, ssize_t written) {
    if (target->kind != FILE_OF_OURS) return written;
    int error = errno;
    if (written > 0) dirtied(target->inode, offset, offset + written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    struct target target = target_of(fd);
    if (refused(&target, count)) return failing(target.error);
    begin(&target);
    return end(&target, offset, real_pwrite(fd, bytes, taken(&target, count), offset));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct target target = target_of(fd);
    if (refused(&target, count)) return failing(target.error);
    begin(&target);
    ssize_t written = real_write(fd, bytes, taken(&target, count));
    off_t offset = target.kind == FILE_OF_OURS ? lseek(fd, 0, SEEK_CUR) - written : 0;
    return end(&target, offset, written);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    struct target target = target_of(fd);
    if (target.error) return failing(target.error);
    begin(&target);
    return end(&target, offset, real_pwritev(fd, parts, count, offset));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct target target = target_of(fd);
    if (target.error) return failing(target.error);
    begin(&target);
    ssize_t written = real_writev(fd, parts, count);
    off_t offset = target.kind == FILE_OF_OURS ? lseek(fd, 0, SEEK_CUR) - written : 0;
    return end(&target, offset, written);
}

/* Syncs. */

static int synced(int fd, int (*real)(int), int swallowed) {
    struct stat stat;
    char path[PATH_MAX];
    enum kind kind = kind_of(fd, &stat, path);
    if (kind == OTHER) return real(fd);
    int error = fault(SYNC, relative(path), NULL);
    if (swallowed && !error) return 0;
    if (journal < 0) return error ? failing(error) : real(fd);
    pthread_mutex_lock(&lock);
    if (kind == DIRECTORY_OF_OURS) {
        if (!error) names_durable(path);
    } else if (error) {
        file_lost(file_of(stat.st_ino));
    } else if (fstat(fd, &stat) == 0) {
        file_durable(file_of(stat.st_ino), fd, stat.st_size);
    }
    pthread_mutex_unlock(&lock);
    return error ? failing(error) : 0;
}

int fsync(int fd) {
    find_symbols();
    return synced(fd, real_fsync, swallow_fsync);
}

int fdatasync(int fd) {
    find_symbols();
    return synced(fd, real_fdatasync, swallow_fdatasync);
}

/* Sizes. */

int ftruncate64(int fd, off64_t size) {
    struct stat stat;
    char path[PATH_MAX];
    find_symbols();
    if (kind_of(fd, &stat, path) != FILE_OF_OURS) return real_ftruncate(fd, size);
    int error = fault(TRUNCATE, relative(path), NULL);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, size);
    /* What is cut off and grows again is zeros, no longer what it was. */
    if (result == 0) dirtied(stat.st_ino, size, stat.st_size);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) {
    struct stat stat;
    char path[PATH_MAX];
    find_symbols();
    if (kind_of(fd, &stat, path) != FILE_OF_OURS) return real_fallocate(fd, mode, offset, bytes);
    int error = fault(ALLOCATE, relative(path), NULL);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    int result = real_fallocate(fd, mode, offset, bytes);
    if (result == 0 && mode != 0) dirtied(stat.st_ino, offset, offset + bytes);
    pthread_mutex_unlock(&lock);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    return fallocate64(fd, mode, offset, bytes);
}

/* Names. */

static int open_at(int at, const char *path, int flags, mode_t mode) {
    find_symbols();
    /* Names below an open directory are used by directory walks alone, which write nothing. */
    const char *name = at == AT_FDCWD || path[0] == '/' ? relative(path) : NULL;
    if (!name || (flags & O_ACCMODE) == O_RDONLY) return real_openat(at, path, flags, mode);
    struct stat stat;
    int is_new = lstat(path, &stat) != 0;
    int error = fault(is_new && (flags & O_CREAT) ? CREATE : OPEN, name, NULL);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    int fd = real_openat(at, path, flags, mode);
    if (fd >= 0 && !is_new && (flags & O_TRUNC)) dirtied(stat.st_ino, 0, stat.st_size);
    pthread_mutex_unlock(&lock);
    return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN_BODY(at)                            \
    va_list arguments;                           \
    va_start(arguments, flags);                  \
    mode_t mode = mode_of(flags, arguments);     \
    va_end(arguments);                           \
    return open_at(at, path, flags, mode)

int open64(const char *path, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int open(const char *path, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int openat64(int at, const char *path, int flags, ...) { OPEN_BODY(at); }
int openat(int at, const char *path, int flags, ...) { OPEN_BODY(at); }

/* The inode of a file of ours that has no other name, or 0. */
static ino_t last_name_of(const char *path) {
    struct stat stat;
    if (!relative(path) || lstat(path, &stat) != 0) return 0;
    return S_ISDIR(stat.st_mode) || stat.st_nlink == 1 ? stat.st_ino : 0;
}

/* A removed file's inode may come back as another file. */
static int removed(int result, ino_t inode) {
    if (result == 0 && inode && journal >= 0) gone(inode);
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    find_symbols();
    int error = path_fault(RENAME, to);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    ino_t replaced = last_name_of(to);
    return removed(real_rename(from, to), replaced);
}

int unlink(const char *path) {
    find_symbols();
    int error = path_fault(REMOVE, path);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    ino_t inode = last_name_of(path);
    return removed(real_unlink(path), inode);
}

int rmdir(const char *path) {
    find_symbols();
    int error = path_fault(REMOVE, path);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    ino_t inode = last_name_of(path);
    return removed(real_rmdir(path), inode);
}

/* What `remove_dir_all` uses. */
int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    struct stat stat;
    find_symbols();
    enum kind kind = at == AT_FDCWD ? OTHER : kind_of(at, &stat, path);
    size_t length = kind == DIRECTORY_OF_OURS ? strlen(path) : 0;
    if (length == 0 || length + strlen(name) + 2 > PATH_MAX) return real_unlinkat(at, name, flags);
    path[length] = '/';
    strcpy(path + length + 1, name);
    int error = path_fault(REMOVE, path);
    if (error) return failing(error);
    pthread_mutex_lock(&lock);
    ino_t inode = last_name_of(path);
    return removed(real_unlinkat(at, name, flags), inode);
}

int mkdir(const char *path, mode_t mode) {
    find_symbols();
    int error = path_fault(CREATE, path);
    return error ? failing(error) : real_mkdir(path, mode);
}

/* Space. */

static int told_space(const char *name, int result, struct statvfs *out) {
    if (result != 0 || !name || !control[0]) return result;
    pthread_mutex_lock(&lock);
    struct rule *rule = rule_for(SPACE, name);
    if (rule && rule->free_bytes >= 0)
        out->f_bavail = out->f_bfree = rule->free_bytes / out->f_frsize;
    pthread_mutex_unlock(&lock);
    return result;
}

int statvfs64(const char *path, struct statvfs64 *out) {
    find_symbols();
    struct statvfs *same = (struct statvfs *)out;
    return told_space(relative(path), real_statvfs(path, same), same);
}

int statvfs(const char *path, struct statvfs *out) {
    return statvfs64(path, (struct statvfs64 *)out);
}

int fstatvfs64(int fd, struct statvfs64 *out) {
    struct stat stat;
    char path[PATH_MAX];
    find_symbols();
    const char *name = kind_of(fd, &stat, path) == OTHER ? NULL : relative(path);
    struct statvfs *same = (struct statvfs *)out;
    return told_space(name, real_fstatvfs(fd, same), same);
}

int fstatvfs(int fd, struct statvfs *out) { return fstatvfs64(fd, (struct statvfs64 *)out); }

/* What would not be seen. */

static int is_ours(int fd) {
    struct stat stat;
    char path[PATH_MAX];
    return journal >= 0 && kind_of(fd, &stat, path) == FILE_OF_OURS;
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset) {
    find_symbols();
    if ((protection & PROT_WRITE) && (flags & MAP_SHARED) && !(flags & MAP_ANONYMOUS) && is_ours(fd))
        give_up("a shared mapping for writing is not seen");
    return real_mmap(at, bytes, protection, flags, fd, offset);
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
    return mmap64(at, bytes, protection, flags, fd, offset);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t bytes,
                        unsigned flags) {
    find_symbols();
    if (is_ours(out)) give_up("copy_file_range is not seen");
    return real_copy_file_range(in, in_at, out, out_at, bytes, flags);
}
