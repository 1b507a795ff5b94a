# Completion of papactl for bash.
_papactl() {
    local words cur=${COMP_WORDS[COMP_CWORD]}
    words=$(papactl complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [ "$words" = "<files>" ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$cur"))
    else
        local IFS=$'\n'
        COMPREPLY=($words)
    fi
}
complete -F _papactl papactl
