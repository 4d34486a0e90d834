/* Faults: what is in the control file, and whether a call meets one. The format is told in
 * powercut.c. */
#pragma once
#include "files.h"
#include <fnmatch.h>

#define RULES_MAX 32
#define PATTERN_MAX 256

enum operation {
    WRITE = 1,
    SYNC = 2,
    ALLOCATE = 4,
    CREATE = 8,
    OPEN = 16,
    TRUNCATE = 32,
    RENAME = 64,
    REMOVE = 128,
    SPACE = 256,
};

struct rule {
    char text[PATTERN_MAX + 128];
    unsigned operations;
    char pattern[PATTERN_MAX];
    int error;
    long delay_ms;
    long long free_bytes;
    long after, count, chance;
    long met;
};

static struct rule rules[RULES_MAX];
static int rule_count;
static char control[PATH_MAX], met_path[PATH_MAX + 8];
static struct stat control_seen;
static uint64_t fault_random;

static uint64_t next_random(void) {
    uint64_t z = (fault_random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static unsigned operations_of(char *words) {
    static const struct { const char *word; unsigned operations; } known[] = {
        {"write", WRITE}, {"sync", SYNC}, {"allocate", ALLOCATE}, {"create", CREATE},
        {"truncate", TRUNCATE}, {"rename", RENAME}, {"remove", REMOVE}, {"space", SPACE},
        /* All that takes space, and all that a read-only file system refuses. */
        {"grow", WRITE | ALLOCATE | CREATE},
        {"modify", WRITE | SYNC | ALLOCATE | CREATE | OPEN | TRUNCATE | RENAME | REMOVE},
    };
    unsigned operations = 0;
    for (char *rest, *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i].word, word) != 0) i++;
        if (i == sizeof known / sizeof *known) give_up(word);
        operations |= known[i].operations;
    }
    return operations;
}

static void read_effect(struct rule *rule, const char *word) {
    static const struct { const char *word; int error; } errors[] = {
        {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EROFS", EROFS}, {"EDQUOT", EDQUOT},
    };
    long long value;
    if (sscanf(word, "delay=%lld", &value) == 1) rule->delay_ms = value;
    else if (sscanf(word, "free=%lld", &value) == 1) rule->free_bytes = value;
    else if (sscanf(word, "after=%lld", &value) == 1) rule->after = value;
    else if (sscanf(word, "count=%lld", &value) == 1) rule->count = value;
    else if (sscanf(word, "chance=%lld", &value) == 1) rule->chance = value;
    else {
        size_t i = 0;
        while (i < sizeof errors / sizeof *errors && strcmp(errors[i].word, word) != 0) i++;
        if (i == sizeof errors / sizeof *errors) give_up(word);
        rule->error = errors[i].error;
    }
}

static void read_rule(char *line) {
    line[strcspn(line, "\n")] = 0;
    if (!line[0] || line[0] == '#') return;
    if (rule_count == RULES_MAX) give_up("too many rules");
    struct rule *rule = &rules[rule_count++];
    *rule = (struct rule){.free_bytes = -1, .count = LONG_MAX, .chance = 100};
    snprintf(rule->text, sizeof rule->text, "%s", line);
    char *rest, *operations = strtok_r(line, " ", &rest), *pattern = strtok_r(NULL, " ", &rest);
    if (!pattern || strlen(pattern) >= sizeof rule->pattern) give_up(rule->text);
    rule->operations = operations_of(operations);
    strcpy(rule->pattern, pattern);
    for (char *word; (word = strtok_r(NULL, " ", &rest));) read_effect(rule, word);
}

/* Reads the control file again where it is another one than before. Whoever writes it puts a new
 * file in its place by renaming, so that no half of it is read. */
static void refresh_rules(void) {
    struct stat now;
    if (!control[0]) return;
    if (stat(control, &now) != 0) now = (struct stat){0};
    if (now.st_ino == control_seen.st_ino && now.st_size == control_seen.st_size
        && now.st_mtim.tv_sec == control_seen.st_mtim.tv_sec
        && now.st_mtim.tv_nsec == control_seen.st_mtim.tv_nsec)
        return;
    control_seen = now;
    rule_count = 0;
    FILE *file = fopen(control, "re");
    char line[PATTERN_MAX + 128];
    while (file && fgets(line, sizeof line, file)) read_rule(line);
    if (file) fclose(file);
}

/* The first rule for this call that acts now. Called with the lock held. */
static struct rule *rule_for(enum operation operation, const char *name) {
    refresh_rules();
    for (struct rule *rule = rules; rule < rules + rule_count; rule++) {
        if (!(rule->operations & operation) || fnmatch(rule->pattern, name, 0) != 0) continue;
        if (rule->chance < 100 && (long)(next_random() % 100) >= rule->chance) continue;
        long met = ++rule->met;
        if (met <= rule->after || met - rule->after > rule->count) continue;
        if (met - rule->after == 1) {
            /* Tells whoever waits for it that the fault has begun to be felt. */
            int fd = real_openat(AT_FDCWD, met_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                                 0600);
            if (fd < 0 || dprintf(fd, "%s\n", rule->text) < 0) give_up(met_path);
            close(fd);
        }
        return rule;
    }
    return NULL;
}

/* The error this call has to answer, or 0; a delay is waited for here. Called without the lock.
 * `is_first` tells whether the rule was met for the first time. */
static int fault(enum operation operation, const char *name, int *is_first) {
    if (!control[0]) return 0;
    pthread_mutex_lock(&lock);
    struct rule *rule = rule_for(operation, name);
    int error = rule ? rule->error : 0;
    long delay_ms = rule ? rule->delay_ms : 0;
    if (is_first) *is_first = rule && rule->met - rule->after == 1;
    pthread_mutex_unlock(&lock);
    if (delay_ms > 0) usleep(delay_ms * 1000);
    return error;
}

static int path_fault(enum operation operation, const char *path) {
    const char *name = relative(path);
    return name ? fault(operation, name, NULL) : 0;
}
