#include "lib/peak_rss.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

#include "lib/peak_rss_internal.h"

namespace pennyweight {
namespace {

constexpr uint64_t kUnlimited = UINT64_MAX;

// Files of /proc and /sys have no length before they are read. "" if there is none.
std::string ReadPseudoFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::optional<uint64_t> ParseNumber(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + start, text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

// The rest of the line that begins with `key`.
std::optional<std::string_view> LineAfter(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (line.substr(0, key.size()) == key) return line.substr(key.size());
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::nullopt;
}

// One group's limit less its usage.
uint64_t HeadroomOf(const std::string& folder, const char* limit_file, const char* usage_file,
                    std::string_view inactive_key) {
  // v2 says "max" where there is no limit, v1 a number near 2^63.
  const auto limit = ParseNumber(ReadPseudoFile(folder + "/" + limit_file));
  const auto usage = ParseNumber(ReadPseudoFile(folder + "/" + usage_file));
  if (!limit || !usage || *limit >= uint64_t{1} << 62) return kUnlimited;
  const std::string stat = ReadPseudoFile(folder + "/memory.stat");
  const auto inactive_line = LineAfter(stat, inactive_key);
  const uint64_t inactive = inactive_line ? ParseNumber(*inactive_line).value_or(0) : 0;
  const uint64_t used = *usage - std::min(*usage, inactive);
  return *limit - std::min(*limit, used);
}

// A limit on a parent binds its children. Inside a container the path may lead outside of what is
// mounted; the mount itself is then the container's own group, so it is always looked at.
uint64_t LeastHeadroom(const std::string& mount, std::string path, const char* limit_file,
                       const char* usage_file, std::string_view inactive_key) {
  uint64_t least = kUnlimited;
  for (;;) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    least = std::min(least, HeadroomOf(mount + path, limit_file, usage_file, inactive_key));
    if (path.empty()) return least;
    const size_t slash = path.rfind('/');
    path.resize(slash == path.npos ? 0 : slash);
  }
}

bool NamesMemory(std::string_view controllers) {
  while (!controllers.empty()) {
    const size_t end = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, end) == "memory") return true;
    controllers.remove_prefix(std::min(end + 1, controllers.size()));
  }
  return false;
}

}  // namespace

namespace peak_rss {

std::optional<uint64_t> KilobytesOf(std::string_view text, std::string_view key) {
  const auto rest = LineAfter(text, key);
  if (!rest || rest->empty() || rest->front() != ':') return std::nullopt;
  const auto value = ParseNumber(rest->substr(1));
  if (!value || *value > kUnlimited / 1024) return std::nullopt;
  return *value * 1024;
}

uint64_t GroupHeadroom(std::string_view cgroups, const std::string& mount) {
  uint64_t least = kUnlimited;
  while (!cgroups.empty()) {
    // hierarchy:controllers:path; version 2 has no controllers.
    const size_t end = std::min(cgroups.find('\n'), cgroups.size());
    const std::string_view line = cgroups.substr(0, end);
    cgroups.remove_prefix(std::min(end + 1, cgroups.size()));
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string path(line.substr(second + 1));
    if (controllers.empty()) {
      least = std::min(
          least, LeastHeadroom(mount, path, "memory.max", "memory.current", "inactive_file "));
    } else if (NamesMemory(controllers)) {
      least = std::min(least, LeastHeadroom(mount + "/memory", path, "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "total_inactive_file "));
    }
  }
  return least;
}

}  // namespace peak_rss

uint64_t PeakRssBytes() {
  const auto peak = peak_rss::KilobytesOf(ReadPseudoFile("/proc/self/status"), "VmHWM");
  if (peak) return *peak;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#if defined(__APPLE__)
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;  // kilobytes everywhere but there
#endif
}

uint64_t AvailableMemoryBytes() {
  const auto machine = peak_rss::KilobytesOf(ReadPseudoFile("/proc/meminfo"), "MemAvailable");
  return std::min(machine.value_or(kUnlimited),
                  peak_rss::GroupHeadroom(ReadPseudoFile("/proc/self/cgroup"), "/sys/fs/cgroup"));
}

}  // namespace pennyweight
