" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective address address_literals all allow_loopback announce_size attempt_starttls
syntax keyword mailgateDirective attempts auth auth_insecure auth_mechanisms auth_required
syntax keyword mailgateDirective auth_required_message backoff balance banner body_spool_limit bounce ca cache
syntax keyword mailgateDirective case_insensitive cert certificate check chunking ciphers client_auth
syntax keyword mailgateDirective client_ca command_timeout concurrency connect connect_timeout control copy_to
syntax keyword mailgateDirective create curves data data_block data_timeout debug default_destination
syntax keyword mailgateDirective default_source defer_sender_reject deliver_to destination destination_in
syntax keyword mailgateDirective disable_commands discard early_talker ehlo endpoint entry expand_placeholders
syntax keyword mailgateDirective expect expire failover failures fallback_delay file final_dot from full_match
syntax keyword mailgateDirective given greeting greeting_delay handshake_timeout header health helo
syntax keyword mailgateDirective helo_response hide hide_client hold_timeout hostname idle_timeout import
syntax keyword mailgateDirective insecure_auth ip ip_strategy key lease_timeout level limits listener
syntax keyword mailgateDirective local_domains log log_name mail_from match max_age max_auth_failures
syntax keyword mailgateDirective max_command_length max_connections max_connections_per_endpoint
syntax keyword mailgateDirective max_connections_per_ip max_errors max_header_count max_header_size max_idle
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_unauthenticated_commands modify multihomed_limit
syntax keyword mailgateDirective mx_limit network nonlocal_source notify nul on_split optional_step port
syntax keyword mailgateDirective private_key probe protocols proxy_protocol quiet_hosts quit rcpt rcpt_to
syntax keyword mailgateDirective read_timeout refuse_clients reject relay_from reload_interval require_tls
syntax keyword mailgateDirective required reroute reserved_connections resolver retry reverse_lookup
syntax keyword mailgateDirective reverse_lookup_timeout root_ca rset runtime_dir schemes servers
syntax keyword mailgateDirective session_timeout shutdown_timeout slow_start smtp_max_line_length sni
syntax keyword mailgateDirective sni_lookup socket_group socket_mode socket_owner source source_in source_ip
syntax keyword mailgateDirective source_ip_fallback source_selection state_dir step store strict_addresses
syntax keyword mailgateDirective strict_line_endings submission_timeout target targets tarpit tempfail timeout
syntax keyword mailgateDirective timeouts tls tls_capture_peer_cert tls_ciphers tls_client tls_client_cert
syntax keyword mailgateDirective tls_default_ca tls_protocols tls_sni tls_start tls_verify_host
syntax keyword mailgateDirective tls_verify_name token total trust trusted user users verify_failure weight
syntax keyword mailgateDirective xclient xforward
syntax keyword mailgateModule admin auth.external auth.file auth.static chain checks email_localpart
syntax keyword mailgateModule email_with_domain external identity lmtp maildir modifiers modify.replace_rcpt
syntax keyword mailgateModule modify.replace_sender msgpipeline pki queue regexp remote replace_rcpt
syntax keyword mailgateModule replace_sender smtp source_address static submission table.chain
syntax keyword mailgateModule table.email_localpart table.email_with_domain table.file table.identity
syntax keyword mailgateModule table.regexp table.static target.lmtp target.maildir target.queue target.remote
syntax keyword mailgateModule target.smtp test
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2 accept allow
syntax keyword mailgateValue argon2 auto bcrypt clear cram-md5 defer disabled error false fingerprint forward
syntax keyword mailgateValue happy_eyeballs ignore info ipv4_only ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json
syntax keyword mailgateValue least_busy login name next no normalize oauthbearer off on operate optional
syntax keyword mailgateValue optional_verify ordered plain random require require_verify round_robin
syntax keyword mailgateValue scram-sha-256 self_signed sha256-crypt sha512-crypt sqlite stderr stdout strip
syntax keyword mailgateValue subject syslog true verify view warn xoauth2 yes yescrypt
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
