# `cpack -G DEB` in the build folder: Debian packages, one a component.
#
#   libworkqueue1       the three shared libraries
#   libworkqueue-dev    headers, archives, pkg-config and CMake files, libworkqueue(3), examples
#   python3-workqueue   libworkqueue.py, for plugins in Python
#   workqueue           the command, its units, man pages and completion
#   workqueue-example   the example plugin
#
# Configure with -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_BUILD_TYPE=RelWithDebInfo, so that the libraries
# are where Debian has them.
find_program(WQ_GZIP gzip)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME workqueue)
set(CPACK_PACKAGE_VENDOR "the workqueue authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "web requests start long-running programs, watched to the end")
# Who makes the packages is who answers for them: DEBFULLNAME and DEBEMAIL, as Debian's own tools take them.
set(CPACK_PACKAGE_CONTACT "workqueue authors <workqueue@example.org>")
if(DEFINED ENV{DEBEMAIL})
  set(CPACK_PACKAGE_CONTACT "$ENV{DEBFULLNAME} <$ENV{DEBEMAIL}>")
endif()
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL libraries development)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SECTION libs)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ
  GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

# wq_package(COMPONENT PACKAGE SUMMARY TEXT DEPENDS...) - with a copyright file and a change log, as
# Debian's policy asks of each.
function(wq_package component package summary text)
  string(TOUPPER ${component} C)
  string(REPLACE ";" ", " depends "${ARGN}")
  foreach(item "PACKAGE_NAME;${package}" "PACKAGE_DEPENDS;${depends}")
    list(GET item 0 name)
    list(SUBLIST item 1 -1 value)
    set(CPACK_DEBIAN_${C}_${name} "${value}" PARENT_SCOPE)
  endforeach()
  set(CPACK_DEBIAN_${C}_DESCRIPTION "${summary}\n${text}" PARENT_SCOPE)
  set(documents ${CMAKE_INSTALL_DATADIR}/doc/${package})
  install(FILES ${PROJECT_SOURCE_DIR}/workqueue/packaging/copyright
    DESTINATION ${documents} COMPONENT ${component})
  install(FILES ${PROJECT_BINARY_DIR}/changelog.gz RENAME changelog.gz
    DESTINATION ${documents} COMPONENT ${component})
endfunction()

execute_process(COMMAND ${WQ_GZIP} -9nc ${PROJECT_SOURCE_DIR}/workqueue/packaging/changelog
  OUTPUT_FILE ${PROJECT_BINARY_DIR}/changelog.gz)

wq_package(libraries libworkqueue1 "shared libraries"
  "Shared libraries: the queue, its faces over HTTP (JSON stream, polling,
server-sent events, WebSocket, task status), and jobs on other machines
by a STOMP broker and an S3 store.")
set(CPACK_DEBIAN_LIBRARIES_PACKAGE_CONTROL_EXTRA
  ${PROJECT_SOURCE_DIR}/workqueue/packaging/triggers
  ${PROJECT_SOURCE_DIR}/workqueue/packaging/shlibs)
set(CPACK_DEBIAN_LIBRARIES_PACKAGE_MULTIARCH same)
wq_package(development libworkqueue-dev "development files of the libraries of workqueue"
  "Headers, archives, and what pkg-config and CMake need to link against them."
  "libworkqueue1 (= ${PROJECT_VERSION})" libh2o-evloop-dev libwslay-dev libssl-dev libjansson-dev
  libsqlite3-dev zlib1g-dev libcurl4-openssl-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
set(examples ${PROJECT_SOURCE_DIR}/demo-plugin/examples)
install(FILES ${examples}/CMakeLists.txt ${examples}/plugin.c ${examples}/queue.c ${examples}/own_parts.c
  ${examples}/own_h2o.c ${examples}/glib.c
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libworkqueue-dev/examples COMPONENT development)
if(WQ_PYTHON_DIR)
  list(APPEND CPACK_COMPONENTS_ALL python)
  wq_package(python python3-workqueue "for Python, with the API of overview-plugin-workqueue"
    "One module, libworkqueue, with which a plugin for Overview that was written for
overview-plugin-workqueue runs on the library in C, with one import changed."
    "libworkqueue1 (>= ${PROJECT_VERSION})" python3)
  set(CPACK_DEBIAN_PYTHON_PACKAGE_SECTION python)
  set(CPACK_DEBIAN_PYTHON_PACKAGE_ARCHITECTURE all)
  set(CPACK_DEBIAN_PYTHON_PACKAGE_SHLIBDEPS OFF)
  install(FILES ${examples}/python/libworkqueue.py DESTINATION ${WQ_PYTHON_DIR} COMPONENT python)
  install(FILES ${examples}/python/flask_plugin.py
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/python3-workqueue/examples COMPONENT python)
endif()
if(WQ_COMMAND)
  list(APPEND CPACK_COMPONENTS_ALL command)
  wq_package(command workqueue "serve any program over HTTP, and watch it to the end"
    "A web request starts a long-running program; people watch its progress in a
browser or a terminal, and fetch what it wrote. This is the command, with units
for systemd, man pages and completion for bash.")
  set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION net)
  set(CPACK_DEBIAN_COMMAND_PACKAGE_CONTROL_EXTRA
    ${PROJECT_SOURCE_DIR}/workqueue/packaging/command/postinst
    ${PROJECT_SOURCE_DIR}/workqueue/packaging/command/postrm)
  install(PROGRAMS ${examples}/program.sh ${examples}/program.py ${examples}/program.mjs
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/workqueue/examples COMPONENT command)
  install(FILES ${examples}/page.html
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/workqueue/examples COMPONENT command)
endif()
if(WQ_DEMO)
  list(APPEND CPACK_COMPONENTS_ALL example)
  wq_package(example workqueue-example "example plugin of workqueue: search in a document set"
    "A plugin for the Overview document server, which indexes a document set and
searches it.")
  set(CPACK_DEBIAN_EXAMPLE_PACKAGE_SECTION net)
endif()
include(CPack)
