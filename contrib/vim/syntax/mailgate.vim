" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective addr address address_literals all allow_loopback announce_size
syntax keyword mailgateDirective attempt_starttls attempts auth auth_insecure auth_mechanisms auth_required
syntax keyword mailgateDirective auth_required_message backoff balance banner body_spool_limit bounce ca cache
syntax keyword mailgateDirective case_insensitive cert certificate check chunking ciphers client_auth
syntax keyword mailgateDirective client_ca command_timeout concurrency connect connect_timeout control copy_to
syntax keyword mailgateDirective create curves data data_block data_timeout debug default_destination
syntax keyword mailgateDirective default_source defer_sender_reject deliver_to destaddr destination
syntax keyword mailgateDirective destination_in destport disable_commands discard early_talker ehlo endpoint
syntax keyword mailgateDirective entry expand_placeholders expect expire failover failures fallback_delay file
syntax keyword mailgateDirective final_dot from full_match given greeting greeting_delay handshake_timeout
syntax keyword mailgateDirective header health helo helo_response hide hide_client hold_timeout hostname ident
syntax keyword mailgateDirective idle_timeout import insecure_auth ip ip_strategy key lease_timeout level
syntax keyword mailgateDirective limits listener local_domains log log_name login mail_from match max_age
syntax keyword mailgateDirective max_auth_failures max_command_length max_connections
syntax keyword mailgateDirective max_connections_per_endpoint max_connections_per_ip max_errors
syntax keyword mailgateDirective max_header_count max_header_size max_idle max_line_length max_message_size
syntax keyword mailgateDirective max_messages max_received max_recipients max_rejected_recipients
syntax keyword mailgateDirective max_unauthenticated_commands modify multihomed_limit mx_limit name network
syntax keyword mailgateDirective nonlocal_source notify nul on_split optional_step port private_key probe
syntax keyword mailgateDirective proto protocols proxy_protocol quiet_hosts quit rcpt rcpt_to read_timeout
syntax keyword mailgateDirective refuse_clients reject relay_from reload_interval require_tls required reroute
syntax keyword mailgateDirective reserved_connections resolver retry reverse_lookup reverse_lookup_timeout
syntax keyword mailgateDirective root_ca rset runtime_dir schemes servers session_timeout shutdown_timeout
syntax keyword mailgateDirective slow_start smtp_max_line_length sni sni_lookup socket_group socket_mode
syntax keyword mailgateDirective socket_owner source source_in source_ip source_ip_fallback source_selection
syntax keyword mailgateDirective state_dir step store strict_addresses strict_line_endings submission_timeout
syntax keyword mailgateDirective target targets tarpit tempfail timeout timeouts tls tls_capture_peer_cert
syntax keyword mailgateDirective tls_ciphers tls_client tls_client_cert tls_default_ca tls_protocols tls_sni
syntax keyword mailgateDirective tls_start tls_verify_host tls_verify_name token total trust trusted user
syntax keyword mailgateDirective users verify_failure weight xclient xclient_required xforward
syntax keyword mailgateModule admin auth.external auth.file auth.smtp auth.static chain checks email_localpart
syntax keyword mailgateModule email_with_domain external identity lmtp maildir modifiers modify.replace_rcpt
syntax keyword mailgateModule modify.replace_sender msgpipeline pki queue regexp remote replace_rcpt
syntax keyword mailgateModule replace_sender smtp source_address static submission table.chain
syntax keyword mailgateModule table.email_localpart table.email_with_domain table.file table.identity
syntax keyword mailgateModule table.regexp table.static target.lmtp target.maildir target.queue target.remote
syntax keyword mailgateModule target.smtp test
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2
syntax keyword mailgateValue accept allow argon2 auto bcrypt clear cram-md5 dane dane_fallback_require_verify
syntax keyword mailgateValue dane_require defer disabled error false fingerprint forward happy_eyeballs ignore
syntax keyword mailgateValue info ipv4_only ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json least_busy next no
syntax keyword mailgateValue normalize oauthbearer off on operate optional optional_verify ordered plain
syntax keyword mailgateValue random require require_verify round_robin scram-sha-256 self_signed sha256-crypt
syntax keyword mailgateValue sha512-crypt sqlite stderr stdout strip subject syslog true v1 v2 verify view
syntax keyword mailgateValue warn xoauth2 yes yescrypt
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
