# Completion of papactl for fish.
function __papactl_words
    set -l found (papactl complete-words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
    if test "$found" = "<files>"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c papactl -f -a '(__papactl_words)'
