// Preloaded by resume_test.sh: a file system that cannot reserve space and does not tell how much
// it has, so that a full disk is met in the middle of the work.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/statvfs.h>
#include <sys/types.h>

int fallocate(int fd, int mode, off_t offset, off_t length) {
  (void)fd, (void)mode, (void)offset, (void)length;
  errno = EOPNOTSUPP;
  return -1;
}

int fstatvfs(int fd, struct statvfs* out) {
  int (*real)(int, struct statvfs*) =
      (int (*)(int, struct statvfs*))dlsym(RTLD_NEXT, "fstatvfs");
  const int result = real(fd, out);
  out->f_bavail = (fsblkcnt_t)1 << 40;
  return result;
}
