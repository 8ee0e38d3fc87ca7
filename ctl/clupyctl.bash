# SPDX-License-Identifier: Apache-2.0
# bash completion for clupyctl. What there is to complete is known to clupyctl itself.

_clupyctl() {
        local line=${COMP_LINE:0:COMP_POINT} words

        # Not COMP_WORDS: bash takes --master=clupy://host:7878 for eight words.
        read -ra words <<< "$line"
        [[ $line == *[[:space:]] ]] && words+=("")
        mapfile -t COMPREPLY < <(compgen -W "$(clupyctl __complete "$((${#words[@]} - 1))" "${words[@]}" 2> /dev/null)" \
                -- "${words[-1]##*[=:]}")
        if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
                compopt -o nospace
        fi
}
complete -F _clupyctl clupyctl
