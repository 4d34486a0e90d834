/* Which files are under test, and the C library's own calls. */
#pragma once
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* POWERCUT_DIR as given and as resolved; empty while the library does nothing. */
static char dir_given[PATH_MAX], dir[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_rmdir)(const char *);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static ssize_t (*real_copy_file_range)(int, off_t *, int, off_t *, size_t, unsigned);
struct statvfs;
static int (*real_statvfs)(const char *, struct statvfs *);
static int (*real_fstatvfs)(int, struct statvfs *);

__attribute__((noreturn)) static void give_up(const char *what) {
    fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
    _exit(99);
}

static void *symbol(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) give_up(name);
    return found;
}

/* Done at the first call as well: other constructors may run, and open files, before ours. */
static void find_symbols(void) {
    if (real_write) return;
    real_pwrite = symbol("pwrite64");
    real_writev = symbol("writev");
    real_pwritev = symbol("pwritev64");
    real_fsync = symbol("fsync");
    real_fdatasync = symbol("fdatasync");
    real_ftruncate = symbol("ftruncate64");
    real_fallocate = symbol("fallocate64");
    real_openat = symbol("openat64");
    real_rename = symbol("rename");
    real_unlink = symbol("unlink");
    real_unlinkat = symbol("unlinkat");
    real_mkdir = symbol("mkdir");
    real_rmdir = symbol("rmdir");
    real_mmap = symbol("mmap64");
    real_copy_file_range = symbol("copy_file_range");
    real_statvfs = symbol("statvfs64");
    real_fstatvfs = symbol("fstatvfs64");
    real_write = symbol("write");
}

/* What comes after the directory in `path`; "" for the directory itself, NULL for other paths. */
static const char *relative(const char *path) {
    const char *roots[] = {dir, dir_given};
    if (!dir[0]) return NULL;
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(roots[i]);
        if (strncmp(path, roots[i], length) != 0) continue;
        if (path[length] == 0) return "";
        if (path[length] == '/') return path + length + 1;
    }
    return NULL;
}

enum kind { OTHER, FILE_OF_OURS, DIRECTORY_OF_OURS };

/* What `fd` is; its path goes to `path` (PATH_MAX), from which `relative` answers the name. */
static enum kind kind_of(int fd, struct stat *stat, char *path) {
    char link[64];
    if (!dir[0] || fstat(fd, stat) != 0) return OTHER;
    if (!S_ISREG(stat->st_mode) && !S_ISDIR(stat->st_mode)) return OTHER;
    /* What was removed while it is open comes back by no power cut. */
    if (stat->st_nlink == 0) return OTHER;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return OTHER;
    path[length] = 0;
    if (!relative(path)) return OTHER;
    return S_ISDIR(stat->st_mode) ? DIRECTORY_OF_OURS : FILE_OF_OURS;
}
