/* A power cut for one process, by LD_PRELOAD.
 *
 * POWERCUT_DIR is the directory under test (flat), POWERCUT_SHADOW an empty directory. The library
 * keeps in POWERCUT_SHADOW what a power cut at this moment would leave in the worst case: of each
 * file the bytes that an fsync or fdatasync made durable, and in the file `names` the entries as the
 * last fsync of the directory found them, one "<file> <name>" a line. Whoever kills the process puts
 * that in place of POWERCUT_DIR. Neither sync_file_range nor a close nor a rename makes anything
 * durable. Writes through a mapping are not seen: what writes so must not be tested with this.
 *
 * POWERCUT_SWALLOW=fdatasync answers every fdatasync without doing it: a test that cannot tell the
 * difference tests nothing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* More files than any test has at once; past it the library gives up loudly. */
#define FILES_MAX 4096

struct range {
    off_t start, end;
};

/* A file, by inode. A new file may get the inode of one that is gone: then it gets a new number. */
struct file {
    ino_t inode;
    int live;
    struct range *dirty;
    size_t dirty_count, dirty_room;
};

static struct file files[FILES_MAX];
static size_t file_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char dir[PATH_MAX], shadow[PATH_MAX];
static int enabled, swallow;

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

static void give_up(const char *what) {
    perror(what);
    _exit(99);
}

static void *symbol(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) give_up(name);
    return found;
}

static void shadow_path(char *out, size_t number) {
    if (snprintf(out, PATH_MAX, "%s/%zu", shadow, number) >= PATH_MAX) give_up("path");
}

/* The file with this inode; `fresh` for one that was just created. */
static size_t file_of(ino_t inode, int fresh) {
    for (size_t i = 0; i < file_count; i++) {
        if (!files[i].live || files[i].inode != inode) continue;
        if (!fresh) return i;
        files[i].live = 0;
    }
    if (file_count == FILES_MAX) give_up("too many files");
    files[file_count] = (struct file){.inode = inode, .live = 1};
    return file_count++;
}

/* Whether `fd` is a file (1) or the directory itself (2). */
static int watched(int fd, struct stat *stat) {
    char link[64], path[PATH_MAX];
    if (!enabled || fstat(fd, stat) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (S_ISDIR(stat->st_mode)) return strcmp(path, dir) == 0 ? 2 : 0;
    size_t prefix = strlen(dir);
    return S_ISREG(stat->st_mode) && strncmp(path, dir, prefix) == 0 && path[prefix] == '/';
}

static void dirtied(int fd, off_t start, ssize_t count) {
    struct stat stat;
    if (count <= 0 || watched(fd, &stat) != 1) return;
    pthread_mutex_lock(&lock);
    struct file *file = &files[file_of(stat.st_ino, 0)];
    if (file->dirty_count == file->dirty_room) {
        file->dirty_room = file->dirty_room ? 2 * file->dirty_room : 16;
        file->dirty = realloc(file->dirty, file->dirty_room * sizeof *file->dirty);
        if (!file->dirty) give_up("realloc");
    }
    file->dirty[file->dirty_count++] = (struct range){start, start + count};
    pthread_mutex_unlock(&lock);
}

static void copy_range(int from, int to, off_t start, off_t end) {
    char buffer[1 << 16];
    while (start < end) {
        size_t want = end - start < (off_t)sizeof buffer ? (size_t)(end - start) : sizeof buffer;
        ssize_t got = pread(from, buffer, want, start);
        if (got < 0) give_up("pread");
        if (got == 0) return;
        if (real_pwrite(to, buffer, got, start) != got) give_up("pwrite");
        start += got;
    }
}

/* What was written to the file since its last sync is durable now, and so is its size. */
static void file_durable(size_t number, int from, off_t size) {
    char path[PATH_MAX];
    struct file *file = &files[number];
    shadow_path(path, number);
    int to = open(path, O_WRONLY | O_CREAT, 0600);
    if (to < 0) give_up(path);
    /* The descriptor that is synced may be for writing alone. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", from);
    from = open(path, O_RDONLY);
    if (from < 0) give_up(path);
    for (size_t i = 0; i < file->dirty_count; i++)
        copy_range(from, to, file->dirty[i].start, file->dirty[i].end);
    if (ftruncate(to, size) != 0) give_up("ftruncate");
    close(from);
    close(to);
    file->dirty_count = 0;
}

/* The names in the directory are durable now. */
static void names_durable(void) {
    char path[PATH_MAX], next[PATH_MAX];
    if (snprintf(path, PATH_MAX, "%s/names", shadow) >= PATH_MAX) give_up("path");
    if (snprintf(next, PATH_MAX, "%s/names.next", shadow) >= PATH_MAX) give_up("path");
    FILE *names = fopen(next, "w");
    DIR *list = opendir(dir);
    if (!names || !list) give_up(dir);
    struct dirent *entry;
    struct stat stat;
    while ((entry = readdir(list))) {
        if (fstatat(dirfd(list), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISREG(stat.st_mode))
            fprintf(names, "%zu %s\n", file_of(stat.st_ino, 0), entry->d_name);
    }
    closedir(list);
    if (fclose(names) != 0 || real_rename(next, path) != 0) give_up(path);
}

__attribute__((constructor)) static void start(void) {
    real_pwrite = symbol("pwrite64");
    real_write = symbol("write");
    real_writev = symbol("writev");
    real_pwritev = symbol("pwritev64");
    real_fsync = symbol("fsync");
    real_fdatasync = symbol("fdatasync");
    real_unlink = symbol("unlink");
    real_rename = symbol("rename");
    const char *watch = getenv("POWERCUT_DIR"), *into = getenv("POWERCUT_SHADOW");
    if (!watch || !into) return;
    if (!realpath(watch, dir) || !realpath(into, shadow)) give_up(watch);
    const char *swallowed = getenv("POWERCUT_SWALLOW");
    swallow = swallowed && strcmp(swallowed, "fdatasync") == 0;
    /* What is there at the start survived the last cut, so it is durable. */
    DIR *list = opendir(dir);
    if (!list) give_up(dir);
    struct dirent *entry;
    while ((entry = readdir(list))) {
        struct stat stat;
        int fd = openat(dirfd(list), entry->d_name, O_RDONLY | O_NOFOLLOW);
        if (fd >= 0 && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
            size_t number = file_of(stat.st_ino, 1);
            struct range all = {0, stat.st_size};
            files[number].dirty = malloc(sizeof all);
            if (!files[number].dirty) give_up("malloc");
            files[number].dirty[0] = all;
            files[number].dirty_count = files[number].dirty_room = 1;
            file_durable(number, fd, stat.st_size);
        }
        if (fd >= 0) close(fd);
    }
    closedir(list);
    names_durable();
    enabled = 1;
}

static int synced(int fd, int (*real)(int)) {
    struct stat stat;
    int kind = watched(fd, &stat);
    int result = real(fd);
    if (kind == 0 || result != 0) return result;
    pthread_mutex_lock(&lock);
    if (kind == 2) {
        names_durable();
    } else if (fstat(fd, &stat) == 0) {
        file_durable(file_of(stat.st_ino, 0), fd, stat.st_size);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) {
    struct stat stat;
    if (swallow && watched(fd, &stat)) return 0;
    return synced(fd, real_fdatasync);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t result = real_pwrite(fd, bytes, count, offset);
    dirtied(fd, offset, result);
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    ssize_t result = real_pwritev(fd, parts, count, offset);
    dirtied(fd, offset, result);
    return result;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t result = real_write(fd, bytes, count);
    if (enabled && result > 0) dirtied(fd, lseek(fd, 0, SEEK_CUR) - result, result);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t result = real_writev(fd, parts, count);
    if (enabled && result > 0) dirtied(fd, lseek(fd, 0, SEEK_CUR) - result, result);
    return result;
}

/* A removed file's inode may come back as another file. */
int unlink(const char *path) {
    struct stat stat;
    int known = enabled && lstat(path, &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_nlink == 1;
    int result = real_unlink(path);
    if (known && result == 0) {
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < file_count; i++)
            if (files[i].live && files[i].inode == stat.st_ino) files[i].live = 0;
        pthread_mutex_unlock(&lock);
    }
    return result;
}
