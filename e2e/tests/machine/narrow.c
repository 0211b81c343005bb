/* A program of 32 bits that knows nothing of large files, and needs no C library: what glibc's readdir(3), telldir(3), seekdir(3) and
   lstat(2) do in one that was compiled without _FILE_OFFSET_BITS=64.

   usage: narrow DIRECTORY     prints how many entries it has; says what does not fit in 32 bits, and ends with 1 */

typedef unsigned long long u64;
struct linux_dirent64 {
	u64 d_ino;
	long long d_off;
	unsigned short d_reclen;
	unsigned char d_type;
	char d_name[];
};

enum { EXIT = 1, WRITE = 4, OPEN = 5, CHDIR = 12, LSEEK = 19, LSTAT = 107, GETDENTS64 = 220 };
enum { KEPT = 4096, DIRECTORY = 0200000 };

static long call(long number, const void *a, const void *b, long c)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return result;
}

static void say(const char *text)
{
	long length = 0;
	while (text[length])
		length++;
	call(WRITE, (void *)1, text, length);
}

static void end(const char *why, const char *name)
{
	say(why);
	say(name);
	say("\n");
	call(EXIT, (void *)1, 0, 0);
}

static long offsets[KEPT];
static u64 numbers[KEPT];
static long count;

/* Whatever is read of the directory at once; 0 at its end. */
static long some(long fd, char *batch, long size)
{
	long bytes = call(GETDENTS64, (void *)fd, batch, size);
	if (bytes < 0)
		end("getdents64 failed", "");
	return bytes;
}

static void run(char **argv)
{
	static char batch[2048], attributes[256], digits[12] = "          \n";
	struct linux_dirent64 *entry;
	long fd = call(OPEN, argv[1], (void *)DIRECTORY, 0), bytes, at, n;

	if (fd < 0 || call(CHDIR, argv[1], 0, 0) < 0)
		end("cannot open ", argv[1]);
	while ((bytes = some(fd, batch, sizeof batch)))
		for (at = 0; at < bytes; at += entry->d_reclen) {
			entry = (void *)(batch + at);
			if (entry->d_off != (int)entry->d_off)
				end("EOVERFLOW: the offset after ", entry->d_name);
			if (entry->d_ino != (unsigned int)entry->d_ino)
				end("EOVERFLOW: the inode number of ", entry->d_name);
			if (call(LSTAT, entry->d_name, attributes, 0))
				end("lstat failed: ", entry->d_name);
			if (count < KEPT) {
				offsets[count] = entry->d_off;
				numbers[count] = entry->d_ino;
			}
			count++;
		}
	/* From the last entry to the first, to each one's successor. */
	for (n = (count < KEPT ? count : KEPT) - 2; n >= 0; n--) {
		if (call(LSEEK, (void *)fd, (void *)offsets[n], 0) != offsets[n])
			end("lseek failed", "");
		entry = (void *)batch;
		if (!some(fd, batch, sizeof batch) || entry->d_ino != numbers[n + 1])
			end("another entry is there than was: ", entry->d_name);
	}
	for (n = 9, at = count; at || n == 9; at /= 10)
		digits[n--] = '0' + at % 10;
	say(digits + n + 1);
	call(EXIT, 0, 0, 0);
}

/* The arguments lie on the stack behind their number. */
__asm__(".globl _start\n_start: mov %esp, %eax\nand $-16, %esp\nsub $12, %esp\nadd $4, %eax\npush %eax\ncall begin\n");
__attribute__((used)) void begin(char **argv)
{
	run(argv);
}
