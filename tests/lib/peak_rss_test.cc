#include "lib/peak_rss.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "lib/peak_rss_internal.h"

namespace pennyweight {
namespace {

using peak_rss::GroupHeadroom;
using peak_rss::KilobytesOf;

// A folder that looks like /sys/fs/cgroup.
class FakeGroups {
 public:
  FakeGroups()
      : root_(std::filesystem::temp_directory_path() /
              ("pennyweight-groups-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(root_);
  }
  ~FakeGroups() { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::string mount() const { return root_.string(); }

 private:
  std::filesystem::path root_;
};

TEST_CASE("peak_rss: grows by what is touched, and never falls") {
  const uint64_t before = PeakRssBytes();
  CHECK(before > (1u << 20));
  // More than the peak so far, so that the peak must move whatever was freed before.
  const size_t bytes = static_cast<size_t>(before) + (64u << 20);
  {
    std::vector<char> block(bytes);
    for (size_t i = 0; i < bytes; i += 4096) block[i] = static_cast<char>(i >> 12 | 1);
    CHECK(PeakRssBytes() >= bytes);
    CHECK(PeakRssBytes() < 2 * bytes + before);
  }
  CHECK(PeakRssBytes() >= bytes);
}

TEST_CASE("peak_rss: available memory is some, and less than all") {
  const uint64_t available = AvailableMemoryBytes();
  CHECK(available > 0);
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  REQUIRE(pages > 0);
  CHECK(available <= static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes));
}

TEST_CASE("peak_rss: lines of kilobytes") {
  const char* text =
      "VmPeakier:\t9 kB\nVmHWM:\t   1234 kB\nVmRSS:\nName: x\nHuge: 36028797018963968 kB";
  CHECK(KilobytesOf(text, "VmHWM") == 1234u * 1024);
  CHECK(KilobytesOf(text, "VmPeak") == std::nullopt);  // a prefix of another key
  CHECK(KilobytesOf(text, "VmRSS") == std::nullopt);
  CHECK(KilobytesOf(text, "Name") == std::nullopt);
  CHECK(KilobytesOf(text, "Huge") == std::nullopt);  // more than 2^64 bytes
  CHECK(KilobytesOf("", "VmHWM") == std::nullopt);
}

TEST_CASE("peak_rss: the least room of all groups up to the root, version 2") {
  const FakeGroups groups;
  groups.Write("a/b/memory.max", "max\n");
  groups.Write("a/b/memory.current", "700\n");
  groups.Write("a/memory.max", "1000\n");
  groups.Write("a/memory.current", "800\n");
  groups.Write("a/memory.stat", "anon 1\ninactive_file 50\nactive_file 9\n");
  CHECK(GroupHeadroom("0::/a/b\n", groups.mount()) == 1000 - (800 - 50));
  CHECK(GroupHeadroom("0::/a/b", groups.mount()) == 250);
  CHECK(GroupHeadroom("0::/elsewhere/unseen\n", groups.mount()) == UINT64_MAX);
  groups.Write("memory.max", "600\n");
  groups.Write("memory.current", "601\n");  // over its limit: nothing is left
  CHECK(GroupHeadroom("0::/elsewhere/unseen\n", groups.mount()) == 0);
}

TEST_CASE("peak_rss: version 1, and text that is neither") {
  const FakeGroups groups;
  groups.Write("memory/x/memory.limit_in_bytes", "5000\n");
  groups.Write("memory/x/memory.usage_in_bytes", "1000\n");
  groups.Write("memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n");
  groups.Write("memory/memory.limit_in_bytes", "9223372036854771712\n");  // version 1's "none"
  groups.Write("memory/memory.usage_in_bytes", "77\n");
  const char* text = "12:cpu,cpuacct:/y\n7:hugetlb,memory:/x\n0::/\n";
  CHECK(GroupHeadroom(text, groups.mount()) == 5000 - 900);
  CHECK(GroupHeadroom("7:notmemory:/x\n", groups.mount()) == UINT64_MAX);
  for (const char* broken : {"", "\n", ":", "0", "0:", "7:memory", "0::", "::::"}) {
    CHECK(GroupHeadroom(broken, groups.mount()) == UINT64_MAX);
  }
}

}  // namespace
}  // namespace pennyweight
