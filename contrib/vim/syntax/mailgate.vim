" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective all announce_size attempt_starttls attempts auth auth_insecure
syntax keyword mailgateDirective auth_mechanisms auth_required auth_required_message backoff balance banner
syntax keyword mailgateDirective body_spool_limit bounce ca cache case_insensitive cert certificate check
syntax keyword mailgateDirective chunking ciphers client_auth client_ca command_timeout concurrency connect
syntax keyword mailgateDirective connect_timeout control create curves data data_block data_timeout debug
syntax keyword mailgateDirective default_destination default_source defer_sender_reject deliver_to destination
syntax keyword mailgateDirective destination_in disable_commands discard early_talker ehlo endpoint entry
syntax keyword mailgateDirective expand_placeholders expect expire failover failures fallback_delay file
syntax keyword mailgateDirective final_dot from full_match given greeting greeting_delay handshake_timeout
syntax keyword mailgateDirective header health helo helo_response hide hide_client hold_timeout hostname
syntax keyword mailgateDirective idle_timeout import insecure_auth ip key lease_timeout limits listener
syntax keyword mailgateDirective local_domains mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_message_size
syntax keyword mailgateDirective max_messages max_received max_recipients max_rejected_recipients
syntax keyword mailgateDirective max_unauthenticated_commands modify network notify nul on_split optional_step
syntax keyword mailgateDirective private_key probe protocols proxy_protocol quit rcpt rcpt_to read_timeout
syntax keyword mailgateDirective refuse_clients reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective resolver retry reverse_lookup reverse_lookup_timeout root_ca rset runtime_dir
syntax keyword mailgateDirective schemes servers session_timeout shutdown_timeout slow_start
syntax keyword mailgateDirective smtp_max_line_length sni sni_lookup socket_group socket_mode source source_in
syntax keyword mailgateDirective state_dir step store strict_addresses strict_line_endings submission_timeout
syntax keyword mailgateDirective target targets tempfail timeout timeouts tls tls_capture_peer_cert
syntax keyword mailgateDirective tls_ciphers tls_client tls_client_cert tls_default_ca tls_protocols tls_sni
syntax keyword mailgateDirective tls_start tls_verify_host tls_verify_name token total trust trusted user
syntax keyword mailgateDirective users verify_failure weight xclient xforward
syntax keyword mailgateModule admin auth.external auth.file auth.static chain checks email_localpart
syntax keyword mailgateModule email_with_domain external identity lmtp maildir modifiers modify.replace_rcpt
syntax keyword mailgateModule modify.replace_sender msgpipeline pki queue regexp replace_rcpt replace_sender
syntax keyword mailgateModule smtp static submission table.chain table.email_localpart table.email_with_domain
syntax keyword mailgateModule table.file table.identity table.regexp table.static target.lmtp target.maildir
syntax keyword mailgateModule target.queue target.smtp test
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2 accept allow
syntax keyword mailgateValue argon2 bcrypt clear defer disabled false fingerprint ignore least_busy login name
syntax keyword mailgateValue next no normalize off on operate optional optional_verify ordered plain random
syntax keyword mailgateValue require require_verify round_robin scram-sha-256 self_signed sha256-crypt
syntax keyword mailgateValue sha512-crypt sqlite strip subject true verify view yes yescrypt
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
