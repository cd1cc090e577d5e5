#!/bin/sh
# program.sh SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME - a program in shell: four steps, and then
# the date.
for step in 1 2 3 4; do
    printf '%s/4\tstep %s of document set %s\n' "$step" "$step" "$2"
    sleep 0.1
done
date >"$4"
