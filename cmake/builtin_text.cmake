# The built-in calibration text: calib/text/*.txt, interleaved and compressed at build time by a
# small tool that runs on the building machine, and linked into pw_calib.
add_executable(pw_embed_text ${CMAKE_SOURCE_DIR}/cmake/embed_text.cc)
target_link_libraries(pw_embed_text PRIVATE pw_options PkgConfig::ZSTD)

file(GLOB builtin_texts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/calib/text/*.txt)
list(SORT builtin_texts)
set(builtin_text_source ${CMAKE_BINARY_DIR}/generated/builtin_text_data.cc)
add_custom_command(
  OUTPUT ${builtin_text_source}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/generated
  COMMAND pw_embed_text ${builtin_text_source} ${builtin_texts}
  DEPENDS pw_embed_text ${builtin_texts}
  COMMENT "Compressing the built-in calibration text"
  VERBATIM)
target_sources(pw_calib PRIVATE ${builtin_text_source})
