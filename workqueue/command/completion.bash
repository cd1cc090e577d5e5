# bash completion for workqueue: what there is to say comes from the command's own tables.

_workqueue()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(workqueue --list-words 2>/dev/null)" -- "$word")
        return
    fi
    case $before in
    --log-level) mapfile -t COMPREPLY < <(compgen -W 'error warning info' -- "$word") && return ;;
    --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$word") && return ;;
    --state) mapfile -t COMPREPLY < <(compgen -W 'queued running publishing succeeded failed cancelled' -- "$word") && return ;;
    esac
    case $word in
    -*) mapfile -t COMPREPLY < <(compgen -W "$(workqueue --list-words "${COMP_WORDS[1]}" 2>/dev/null | sed 's/=$//')" -- "$word") ;;
    *) compopt -o default ;;
    esac
}

complete -F _workqueue workqueue
