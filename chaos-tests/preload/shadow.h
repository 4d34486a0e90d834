/* What a power cut would leave: kept in POWERCUT_SHADOW as powercut.c tells. All of it is called
 * with the lock held. */
#pragma once
#include "files.h"

/* More files than any run makes; past it the library gives up loudly. */
#define FILES_MAX 65536

struct range {
    off_t start, end;
};

/* A file or directory, by inode. A new one may get the inode of one that is gone: then it gets a
 * new number. */
struct file {
    ino_t inode;
    int live;
    struct range *dirty;
    size_t dirty_count, dirty_room;
};

/* What the journal holds, 32 bytes each, little-endian on the machines this runs on. */
enum event { BORN = 1, GONE = 2, DIRTY = 3, CLEAN = 4 };
struct record {
    uint64_t event, number, start, end;
};

static char shadow[PATH_MAX];
static struct file files[FILES_MAX];
static size_t file_count;
static int journal = -1;

static void shadow_path(char *out, const char *name, size_t number) {
    if (snprintf(out, PATH_MAX, "%s/%s%zu", shadow, name, number) >= PATH_MAX) give_up("path");
}

static void note(enum event event, size_t number, uint64_t start, uint64_t end) {
    struct record record = {event, number, start, end};
    if (real_write(journal, &record, sizeof record) != sizeof record) give_up("journal");
}

static size_t born(ino_t inode) {
    if (file_count == FILES_MAX) give_up("too many files");
    files[file_count] = (struct file){.inode = inode, .live = 1};
    return file_count++;
}

/* The number of the file with this inode. */
static size_t file_of(ino_t inode) {
    for (size_t i = 0; i < file_count; i++)
        if (files[i].live && files[i].inode == inode) return i;
    note(BORN, file_count, inode, 0);
    return born(inode);
}

static void gone(ino_t inode) {
    for (size_t i = 0; i < file_count; i++) {
        if (!files[i].live || files[i].inode != inode) continue;
        files[i].live = 0;
        note(GONE, i, 0, 0);
    }
}

static void add_dirty(size_t number, off_t start, off_t end) {
    struct file *file = &files[number];
    if (file->dirty_count == file->dirty_room) {
        file->dirty_room = file->dirty_room ? 2 * file->dirty_room : 16;
        file->dirty = realloc(file->dirty, file->dirty_room * sizeof *file->dirty);
        if (!file->dirty) give_up("realloc");
    }
    file->dirty[file->dirty_count++] = (struct range){start, end};
}

static void dirtied(ino_t inode, off_t start, off_t end) {
    if (journal < 0 || start >= end) return;
    size_t number = file_of(inode);
    add_dirty(number, start, end);
    note(DIRTY, number, start, end);
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
    shadow_path(path, "", number);
    int to = real_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (to < 0) give_up(path);
    /* The descriptor that is synced may be for writing alone. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", from);
    from = real_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (from < 0) give_up(path);
    for (size_t i = 0; i < file->dirty_count; i++)
        copy_range(from, to, file->dirty[i].start, file->dirty[i].end);
    if (real_ftruncate(to, size) != 0) give_up("ftruncate");
    close(from);
    close(to);
    file->dirty_count = 0;
    note(CLEAN, number, 0, 0);
}

/* A sync of the file failed: the kernel has dropped what was to be written, and the next sync will
 * not write it either. Only what is written again can become durable. */
static void file_lost(size_t number) {
    files[number].dirty_count = 0;
    note(CLEAN, number, 0, 0);
}

/* The names in this directory are durable now. */
static void names_durable(const char *path) {
    char names[PATH_MAX], next[PATH_MAX];
    struct stat stat;
    if (lstat(path, &stat) != 0) return;
    if (strcmp(path, dir) == 0) {
        if (snprintf(names, PATH_MAX, "%s/names", shadow) >= PATH_MAX) give_up("path");
    } else {
        shadow_path(names, "names.", file_of(stat.st_ino));
    }
    if (snprintf(next, PATH_MAX, "%s/next", shadow) >= PATH_MAX) give_up("path");
    int fd = real_openat(AT_FDCWD, next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *list = fd < 0 ? NULL : fdopen(fd, "w");
    DIR *entries = opendir(path);
    if (!list || !entries) give_up(path);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (fstatat(dirfd(entries), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (!S_ISREG(stat.st_mode) && !S_ISDIR(stat.st_mode)) continue;
        const char *mark = S_ISDIR(stat.st_mode) ? "d" : "";
        fprintf(list, "%s%zu %s\n", mark, file_of(stat.st_ino), entry->d_name);
    }
    closedir(entries);
    if (fclose(list) != 0 || real_rename(next, names) != 0) give_up(names);
}

/* What is in this directory now is durable. */
static void all_durable(const char *path) {
    DIR *entries = opendir(path);
    if (!entries) give_up(path);
    for (struct dirent *entry; (entry = readdir(entries));) {
        char child[PATH_MAX];
        struct stat stat;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(child, PATH_MAX, "%s/%s", path, entry->d_name) >= PATH_MAX) give_up("path");
        if (lstat(child, &stat) != 0) give_up(child);
        if (S_ISDIR(stat.st_mode)) all_durable(child);
        if (!S_ISREG(stat.st_mode)) continue;
        int fd = real_openat(AT_FDCWD, child, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) give_up(child);
        size_t number = file_of(stat.st_ino);
        /* Preallocated files are mostly holes. */
        for (off_t end, start = 0; (start = lseek(fd, start, SEEK_DATA)) >= 0; start = end) {
            end = lseek(fd, start, SEEK_HOLE);
            if (end < 0) give_up(child);
            add_dirty(number, start, end);
        }
        file_durable(number, fd, stat.st_size);
        close(fd);
    }
    closedir(entries);
    names_durable(path);
}

/* Takes up what an earlier process on the same directory noted: no power was cut between. */
static void resume(void) {
    struct record record;
    ssize_t got;
    while ((got = read(journal, &record, sizeof record)) == sizeof record) {
        switch (record.event) {
        case BORN:
            if (record.number != file_count) give_up("journal");
            born(record.start);
            break;
        case GONE: files[record.number].live = 0; break;
        case DIRTY: add_dirty(record.number, record.start, record.end); break;
        case CLEAN: files[record.number].dirty_count = 0; break;
        default: give_up("journal");
        }
    }
    /* The end may be cut short where a kill hit its write. */
    off_t end = lseek(journal, 0, SEEK_CUR) - (got > 0 ? got : 0);
    if (got < 0 || real_ftruncate(journal, end) != 0) give_up("journal");
}

static void start_shadow(const char *into) {
    char path[PATH_MAX];
    if (!realpath(into, shadow)) give_up(into);
    if (snprintf(path, PATH_MAX, "%s/journal", shadow) >= PATH_MAX) give_up("path");
    int is_fresh = access(path, F_OK) != 0;
    journal = real_openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) give_up(path);
    /* What is there at the start survived the last cut, so it is durable. */
    if (is_fresh) all_durable(dir);
    else resume();
}
