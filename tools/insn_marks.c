/* A plugin for qemu's user mode: counts the instructions that the emulated program executes, and writes the counts to a file at marks.
 *
 * The program sets a mark with lseek(fd of /dev/null, MARK + n, SEEK_SET), which has no other effect. The plugin then adds a line
 * "n own all" to the file of its argument out=FILE: instructions of the thread that set the mark, and of all threads together.
 *
 * Build: gcc -O2 -shared -fPIC -DAPI=1 -o insn_marks.so insn_marks.c     API: a version of the interface that this qemu accepts, see
 * arm_cost.sh. The functions used are declared here, since Debian packages no header of the interface; versions 1 to 4 have them alike.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb; /* a block of instructions with one entry and one exit */
enum { NO_REGISTERS = 0 };
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed_t)(unsigned int thread, void *data);
typedef void (*called_t)(qemu_plugin_id_t, unsigned int thread, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed_t, int flags, void *data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

#define EXPORTED __attribute__((visibility("default")))
#define MARK UINT64_C(0x45444745) << 24
#define MARKS 4096
#define LSEEK_AARCH64 62
#define THREADS 64
#define CACHE_LINE 64

EXPORTED int qemu_plugin_version = API;

/* One counter per thread, each on a cache line of its own: no increment is lost and no thread waits. */
static struct { uint64_t count; char rest[CACHE_LINE - sizeof(uint64_t)]; } counters[THREADS];
static FILE *out;

static void executed(unsigned int thread, void *instructions)
{
    counters[thread % THREADS].count += (uintptr_t)instructions;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t fd, uint64_t offset, uint64_t whence, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)fd, (void)whence, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    uint64_t total = 0, mark = offset - (MARK);
    if (number != LSEEK_AARCH64 || mark >= MARKS)
        return;
    for (int i = 0; i < THREADS; i++)
        total += counters[i].count;
    fprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", mark, counters[thread % THREADS].count, total);
    fflush(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    if (out == NULL) {
        fprintf(stderr, "insn_marks: out=FILE is missing or cannot be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
