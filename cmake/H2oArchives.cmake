# Links an archive instead of a shared library wherever both are installed, so
# that gRPC, Protobuf, Abseil and what they need are inside the programs.
# docs/operations.md gives the reasons.  Include this file after every
# find_package.
get_directory_property(targets IMPORTED_TARGETS)
foreach(target IN LISTS targets)
  foreach(property IMPORTED_LOCATION IMPORTED_LOCATION_NONE
      IMPORTED_LOCATION_RELEASE IMPORTED_LOCATION_DEBUG
      INTERFACE_LINK_LIBRARIES)
    get_target_property(libraries ${target} ${property})
    if(NOT libraries)
      continue()
    endif()
    set(chosen)
    foreach(library IN LISTS libraries)
      if(library STREQUAL "-lre2")  # the form in which gRPC's package passes it on
        set(library /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/libre2.so)
      endif()
      string(REGEX REPLACE "\\.so[.0-9]*$" ".a" archive "${library}")
      if(EXISTS "${archive}")
        set(library "${archive}")
      endif()
      list(APPEND chosen "${library}")
    endforeach()
    set_target_properties(${target} PROPERTIES ${property} "${chosen}")
  endforeach()
endforeach()
