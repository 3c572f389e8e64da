if exists("b:did_ftplugin")
  finish
endif
let b:did_ftplugin = 1

setlocal commentstring=#\ %s comments=:# expandtab shiftwidth=4 softtabstop=4
setlocal makeprg=mailgate\ check\ -c\ %:S
setlocal errorformat=%Eerror:\ %m,%Wwarning:\ %m,%C%*\\s-->\ %f:%l:%c,%-G%.%#
let b:undo_ftplugin = "setlocal commentstring< comments< expandtab< shiftwidth< softtabstop< makeprg< errorformat<"
