// The parts of lib/peak_rss.cc that tests call. Private to it and its test.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pennyweight::peak_rss {

// The bytes of a line "Key:   123 kB" of /proc/meminfo or /proc/self/status.
std::optional<uint64_t> KilobytesOf(std::string_view text, std::string_view key);

// The least that any memory control group on the way from this process's own to the root leaves:
// limit - usage, where inactive file pages do not count as usage, for they can be dropped.
// `cgroups` is the text of /proc/self/cgroup, `mount` is /sys/fs/cgroup. UINT64_MAX if unlimited.
uint64_t GroupHeadroom(std::string_view cgroups, const std::string& mount);

}  // namespace pennyweight::peak_rss
