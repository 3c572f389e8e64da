" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective all announce_size attempt_starttls attempts auth auth_insecure
syntax keyword mailgateDirective auth_mechanisms auth_required auth_required_message backoff balance banner
syntax keyword mailgateDirective body_spool_limit ca cache case_insensitive cert certificate check chunking
syntax keyword mailgateDirective ciphers client_auth client_ca command_timeout connect connect_timeout create
syntax keyword mailgateDirective curves data data_block data_timeout debug default_destination default_source
syntax keyword mailgateDirective defer_sender_reject deliver_to destination destination_in disable_commands
syntax keyword mailgateDirective discard early_talker ehlo endpoint entry expand_placeholders expect failover
syntax keyword mailgateDirective failures fallback_delay file final_dot from full_match given greeting
syntax keyword mailgateDirective greeting_delay handshake_timeout header health helo helo_response hide
syntax keyword mailgateDirective hide_client hold_timeout hostname idle_timeout import insecure_auth ip key
syntax keyword mailgateDirective lease_timeout limits listener local_domains mail_from match max_age
syntax keyword mailgateDirective max_auth_failures max_command_length max_connections
syntax keyword mailgateDirective max_connections_per_endpoint max_connections_per_ip max_errors
syntax keyword mailgateDirective max_header_count max_header_size max_idle max_message_size max_messages
syntax keyword mailgateDirective max_received max_recipients max_rejected_recipients
syntax keyword mailgateDirective max_unauthenticated_commands modify network nul on_split optional_step
syntax keyword mailgateDirective private_key probe protocols proxy_protocol quit rcpt rcpt_to read_timeout
syntax keyword mailgateDirective refuse_clients reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective resolver reverse_lookup reverse_lookup_timeout root_ca rset runtime_dir
syntax keyword mailgateDirective schemes servers session_timeout shutdown_timeout slow_start
syntax keyword mailgateDirective smtp_max_line_length sni sni_lookup source source_in state_dir step
syntax keyword mailgateDirective strict_addresses strict_line_endings submission_timeout targets tempfail
syntax keyword mailgateDirective timeout timeouts tls tls_capture_peer_cert tls_ciphers tls_client
syntax keyword mailgateDirective tls_client_cert tls_default_ca tls_protocols tls_sni tls_start
syntax keyword mailgateDirective tls_verify_host tls_verify_name total trust trusted user users verify_failure
syntax keyword mailgateDirective weight xclient xforward
syntax keyword mailgateModule auth.external auth.file auth.static chain checks email_localpart
syntax keyword mailgateModule email_with_domain external identity lmtp maildir modifiers modify.replace_rcpt
syntax keyword mailgateModule modify.replace_sender msgpipeline pki regexp replace_rcpt replace_sender smtp
syntax keyword mailgateModule static submission table.chain table.email_localpart table.email_with_domain
syntax keyword mailgateModule table.file table.identity table.regexp table.static target.lmtp target.maildir
syntax keyword mailgateModule target.smtp test
syntax keyword mailgateValue 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5 ENHANCEDSTATUSCODES EXPN EXTERNAL
syntax keyword mailgateValue HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS
syntax keyword mailgateValue SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2 accept allow argon2 bcrypt clear defer
syntax keyword mailgateValue disabled false fingerprint ignore login name next no normalize off on optional
syntax keyword mailgateValue optional_verify plain require require_verify scram-sha-256 self_signed
syntax keyword mailgateValue sha256-crypt sha512-crypt strip subject true verify yes yescrypt
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
