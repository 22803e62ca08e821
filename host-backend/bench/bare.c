/*
 * The yardstick of `ringside`'s start: the same KVM calls, in the same order, and nothing else.
 *
 *   cc -O2 -o bare bare.c && ./bare [whole|split] [MIB] [ioeventfds] [irqfds]
 *
 * Makes a VM with one memory slot, then the interrupt chip, then one vCPU in 32-bit protected mode, and runs a guest that
 * writes one byte to COM1 and a code to the exit port. Prints the byte on standard output when it comes, and on standard
 * error the nanoseconds from main() to the byte. What it costs to close the VM shows in the life of the process.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { LOAD_ADDRESS = 0x100000, COM1 = 0x3f8, EXIT_PORT = 0x604, CPUID_ENTRIES = 256 };

static const unsigned char guest[] = {
	0xba, 0xf8, 0x03, 0, 0,		/* mov edx, COM1 */
	0xb0, '!', 0xee,		/* mov al, '!'; out dx, al */
	0xba, 0x04, 0x06, 0, 0,		/* mov edx, EXIT_PORT */
	0x31, 0xc0, 0xef, 0xf4,		/* xor eax, eax; out dx, eax; hlt */
};

static long call(int fd, unsigned long request, void *argument, const char *name)
{
	long result = ioctl(fd, request, argument);

	if (result < 0) {
		perror(name);
		exit(1);
	}
	return result;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void flat(struct kvm_segment *s, int selector, int type)
{
	*s = (struct kvm_segment){ .limit = ~0u, .selector = selector, .type = type, .present = 1, .db = 1, .s = 1, .g = 1 };
}

int main(int argc, char **argv)
{
	int64_t start = now();
	int split = argc > 1 && !strcmp(argv[1], "split");
	size_t bytes = (argc > 2 ? strtoul(argv[2], 0, 0) : 128) << 20;
	int ioeventfds = argc > 3 ? atoi(argv[3]) : 0;
	int irqfds = argc > 4 ? atoi(argv[4]) : 0;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0) {
		perror("/dev/kvm");
		return 1;
	}
	CALL(kvm, KVM_GET_API_VERSION, 0);
	int vm = CALL(kvm, KVM_CREATE_VM, 0);
	char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	memcpy(memory + LOAD_ADDRESS, guest, sizeof(guest));
	struct kvm_userspace_memory_region slot = { .memory_size = bytes, .userspace_addr = (uintptr_t)memory };

	CALL(vm, KVM_SET_USER_MEMORY_REGION, &slot);
	if (split) {
		struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

		CALL(vm, KVM_ENABLE_CAP, &cap);
	} else {
		CALL(vm, KVM_CREATE_IRQCHIP, 0);
	}
	for (int i = 0; i < irqfds; i++) {
		struct kvm_irqfd irqfd = { .fd = eventfd(0, EFD_CLOEXEC), .gsi = 4 + i };

		CALL(vm, KVM_IRQFD, &irqfd);
	}
	for (int i = 0; i < ioeventfds; i++) {
		struct kvm_ioeventfd notify = { .addr = 0xd0000050, .len = 4, .datamatch = i, .fd = eventfd(0, EFD_CLOEXEC),
						.flags = KVM_IOEVENTFD_FLAG_DATAMATCH };

		CALL(vm, KVM_IOEVENTFD, &notify);
	}
	int vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(cpuid->entries[0]));

	cpuid->nent = CPUID_ENTRIES;
	CALL(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	CALL(vcpu, KVM_SET_CPUID2, cpuid);
	struct kvm_sregs sregs;

	CALL(vcpu, KVM_GET_SREGS, &sregs);
	flat(&sregs.cs, 0x08, 0xb);
	flat(&sregs.ds, 0x10, 0x3);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	sregs.tr = (struct kvm_segment){ .limit = 0x67, .type = 0xb, .present = 1 };
	sregs.cr0 = 0x11;
	CALL(vcpu, KVM_SET_SREGS, &sregs);
	struct kvm_regs regs = { .rip = LOAD_ADDRESS, .rflags = 2 };

	CALL(vcpu, KVM_SET_REGS, &regs);
	long size = CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	for (;;) {
		CALL(vcpu, KVM_RUN, 0);
		if (run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "exit reason %u\n", run->exit_reason);
			return 1;
		}
		if (run->io.port == EXIT_PORT)
			return 0;
		if (run->io.port == COM1) {
			int64_t first = now() - start;

			if (write(1, (char *)run + run->io.data_offset, 1) != 1)
				return 1;
			fprintf(stderr, "%lld\n", (long long)first);
		}
	}
}
