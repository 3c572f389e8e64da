" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective all announce_size attempt_starttls attempts auth auth_insecure backoff
syntax keyword mailgateDirective balance banner body_spool_limit ca cache case_insensitive cert certificate
syntax keyword mailgateDirective check chunking ciphers client_auth client_ca command_timeout connect
syntax keyword mailgateDirective connect_timeout create curves data data_block data_timeout debug
syntax keyword mailgateDirective default_destination default_source defer_sender_reject deliver_to destination
syntax keyword mailgateDirective destination_in disable_commands discard early_talker ehlo endpoint entry
syntax keyword mailgateDirective expand_placeholders expect failover failures fallback_delay file final_dot
syntax keyword mailgateDirective from full_match given greeting greeting_delay handshake_timeout header health
syntax keyword mailgateDirective helo helo_response hide hold_timeout hostname idle_timeout import ip key
syntax keyword mailgateDirective lease_timeout limits listener local_domains mail_from max_age
syntax keyword mailgateDirective max_command_length max_connections max_connections_per_endpoint
syntax keyword mailgateDirective max_connections_per_ip max_errors max_header_count max_header_size max_idle
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients modify network nul on_split optional_step private_key
syntax keyword mailgateDirective protocols proxy_protocol quit rcpt rcpt_to read_timeout refuse_clients reject
syntax keyword mailgateDirective relay_from reload_interval require_tls required reroute resolver
syntax keyword mailgateDirective reverse_lookup reverse_lookup_timeout root_ca rset runtime_dir servers
syntax keyword mailgateDirective session_timeout shutdown_timeout smtp_max_line_length sni sni_lookup source
syntax keyword mailgateDirective source_in state_dir step strict_addresses strict_line_endings
syntax keyword mailgateDirective submission_timeout targets tempfail timeout timeouts tls
syntax keyword mailgateDirective tls_capture_peer_cert tls_ciphers tls_client tls_client_cert tls_default_ca
syntax keyword mailgateDirective tls_protocols tls_sni tls_start tls_verify_host tls_verify_name total trust
syntax keyword mailgateDirective trusted user verify_failure xclient xforward
syntax keyword mailgateModule chain checks email_localpart email_with_domain identity lmtp maildir modifiers
syntax keyword mailgateModule modify.replace_rcpt modify.replace_sender msgpipeline pki regexp replace_rcpt
syntax keyword mailgateModule replace_sender smtp static table.chain table.email_localpart
syntax keyword mailgateModule table.email_with_domain table.file table.identity table.regexp table.static
syntax keyword mailgateModule target.lmtp target.maildir target.smtp test
syntax keyword mailgateValue 8BITMIME BDAT BINARYMIME CHUNKING ENHANCEDSTATUSCODES EXPN HELP LIMITS PIPELINING
syntax keyword mailgateValue SIZE SMTPUTF8 STARTTLS VRFY accept allow clear defer disabled external false
syntax keyword mailgateValue ignore login next no normalize off on optional optional_verify ordered plain
syntax keyword mailgateValue require require_verify self_signed strip true verify yes
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
