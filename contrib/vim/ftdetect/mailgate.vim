autocmd BufRead,BufNewFile mailgate.conf,*/mailgate/*.conf,*/mailgate/*/*.conf setfiletype mailgate
